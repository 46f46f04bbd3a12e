// The traffic of one step: which parts of a state pass through slots of host memory, where each slice of them lies, and
// what is on its way. The order of things is the updater's business.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { FloatDType } from "../../backend/ggml/dtypes.ts";
import type { Slab } from "../../backend/ggml/update-graph.ts";
import { ConfigError, IoError } from "../../base/errors.ts";
import { streamBytes } from "../../memory/shared-memory.ts";
import type { Region } from "../../memory/store.ts";
import { BLOCK, MAX_CONSTANTS, type MomentFormat, TILE, type UpdateRule } from "./rules/rule.ts";
import { MASTER, type ParameterState, workingFormat } from "./state.ts";

/** One slice is read, one stepped, one written. */
export const SLOTS = 3;

/** Elements of a slice unless it is said otherwise: 16 MiB of f32. */
export const SLICE_ELEMENTS = 4 * 2 ** 20;

/** A region of a state as a step uses it. */
export interface SlotPart {
  readonly region: Region;
  readonly format: MomentFormat;
  /** The processor works on it where it is; otherwise slices of it pass through slots. */
  readonly inPlace: boolean;
  /** The working copy is only written. */
  readonly reads: boolean;
}

/** Master copy, moments, working copy, in this order. */
export function partsOf(rule: UpdateRule, state: ParameterState): SlotPart[] {
  const part = (region: Region, format: MomentFormat, reads: boolean): SlotPart => ({
    region,
    format,
    inPlace: region.buffer !== undefined,
    reads,
  });
  const moments = rule.moments.map((format, i) => part(state.moments[i] as Region, format, true));
  const parts = [part(state.master, MASTER, true), ...moments];
  const { working } = state;
  if (working) parts.push(part(working.region, workingFormat(working.dtype), false));
  return parts;
}

/** Throws {@link ConfigError} where a state is not one of the rule's, {@link IoError} where part of it is torn. */
export function checkState(rule: UpdateRule, state: ParameterState): void {
  const { name, elements, master, moments, working } = state;
  if (!Number.isSafeInteger(elements) || elements < 1) {
    throw new ConfigError(`${name}: ${elements} is not a number of elements`);
  }
  if (moments.length !== rule.moments.length) {
    throw new ConfigError(
      `${name}: ${rule.name} keeps ${rule.moments.length} moments, not ${moments.length}`,
    );
  }
  const wanted: [Region, MomentFormat][] = [[master, MASTER]];
  for (const [i, format] of rule.moments.entries()) wanted.push([moments[i] as Region, format]);
  if (working) wanted.push([working.region, workingFormat(working.dtype)]);
  for (const [region, format] of wanted) {
    if (region.torn) {
      throw new IoError(
        `${name}: ${format.name} cannot be used: ${region.torn}; write it again, for example from a saved training state`,
      );
    }
    const bytes = format.bytes(elements);
    if (region.bytes < bytes) {
      throw new ConfigError(`${name}: ${format.name} needs ${bytes} bytes, its region has ${region.bytes}`);
    }
  }
}

/** A whole number of tiles, at least one. Throws {@link ConfigError} for what is not a number of elements. */
export function wholeTiles(elements: number): number {
  if (Number.isSafeInteger(elements) && elements > 0) return Math.ceil(elements / TILE) * TILE;
  throw new ConfigError(`optimizer: slices of ${elements} elements are not possible`);
}

/** Elements of the slices of a parameter: no more than it has, in whole tiles. */
export function sliceLength(sliceElements: number, elements: number): number {
  return Math.min(wholeTiles(sliceElements), wholeTiles(elements));
}

/** Bytes of host memory for constants, a block of the scaled gradient, and the rule's scratch; loops need none. */
export function scratchBytes(rule: UpdateRule): number {
  if (!("build" in rule)) return 0;
  return MAX_CONSTANTS * 4 + (1 + rule.scratch) * BLOCK * 4;
}

/** Bytes that a slice of a part takes in a slot. */
function pieceBytes(format: MomentFormat, length: number): number {
  return streamBytes(format.bytes(length));
}

/** Bytes of all slots for slices of `length` of a parameter of `elements`. */
export function slotBytes(staged: readonly MomentFormat[], elements: number, length: number): number {
  const slot = staged.reduce((sum, format) => sum + pieceBytes(format, length), 0);
  return slot * Math.min(SLOTS, Math.ceil(elements / length));
}

/**
 * Bytes of host memory an updater takes to step a parameter of `elements`: to plan with before there are any regions.
 * `staged`: what is not on the cpu tier.
 */
export function updaterBytes(
  rule: UpdateRule,
  elements: number,
  staged: {
    readonly master?: boolean;
    readonly moments?: boolean;
    readonly working?: FloatDType | undefined;
  },
  sliceElements = SLICE_ELEMENTS,
): number {
  const formats: MomentFormat[] = [];
  if (staged.master) formats.push(MASTER);
  if (staged.moments) formats.push(...rule.moments);
  if (staged.working) formats.push(workingFormat(staged.working));
  return scratchBytes(rule) + slotBytes(formats, elements, sliceLength(sliceElements, elements));
}

/** One step of one state on its way. */
export class Traffic {
  readonly state: ParameterState;
  readonly parts: readonly SlotPart[];
  /** Elements of every slice but the last. */
  readonly length: number;
  /** Slices. */
  readonly count: number;
  /** Some of the state is stepped where it is. */
  readonly inPlace: boolean;
  /** Something of the state is no longer what it was before the step. */
  changed = false;
  readonly #slots: NativeBuffer | undefined;
  readonly #slotOffsets = new Map<SlotPart, number>();
  #slotBytes = 0;
  readonly #reads: Promise<void>[] = [];
  readonly #writes: Promise<void>[] = [];
  readonly #all = new Set<Promise<unknown>>();

  constructor(
    state: ParameterState,
    parts: readonly SlotPart[],
    slots: NativeBuffer | undefined,
    length: number,
  ) {
    this.state = state;
    this.parts = parts;
    this.length = length;
    this.count = Math.ceil(state.elements / length);
    this.inPlace = parts.some((part) => part.inPlace);
    this.#slots = slots;
    for (const part of parts) {
      if (part.inPlace) continue;
      this.#slotOffsets.set(part, this.#slotBytes);
      this.#slotBytes += pieceBytes(part.format, length);
    }
  }

  /** Elements of slice `index`. */
  elements(index: number): number {
    return Math.min(this.length, this.state.elements - index * this.length);
  }

  /** Where element `at`, a multiple of {@link TILE}, of slice `index` is while it is stepped. */
  slab(part: SlotPart, index: number, at: number): Slab {
    const { region, format } = part;
    if (part.inPlace) {
      return { buffer: region.buffer as NativeBuffer, offset: format.bytes(index * this.length + at) };
    }
    return { buffer: this.#slots as NativeBuffer, offset: this.#slotOffset(part, index) + format.bytes(at) };
  }

  /** Where the values that slice `index` of a part has before it is stepped are kept, if they are. */
  keeps(part: SlotPart, index: number): Slab | undefined {
    const kept = this.state.kept?.get(part.region);
    return kept && { buffer: kept.place, offset: part.format.bytes(index * this.length) };
  }

  /** To be called when slice `index` is about to be kept and stepped. */
  begin(index: number): void {
    if (this.inPlace) this.changed = true;
    const end = index * this.length + this.elements(index);
    for (const { region, format } of this.parts) {
      const kept = this.state.kept?.get(region);
      if (kept) kept.bytes = format.bytes(end);
    }
  }

  /** Starts reading slice `index` into its slot. */
  read(index: number): void {
    this.#reads[index] = this.#move(index, (part, slots, at, offset, bytes) =>
      part.reads ? part.region.read(slots, at, offset, bytes) : undefined,
    );
  }

  /** Starts writing slice `index` back. */
  write(index: number): void {
    if (this.#slotBytes > 0) this.changed = true;
    this.#writes[index] = this.#move(index, (part, slots, at, offset, bytes) =>
      part.region.write(slots, at, offset, bytes),
    );
  }

  async hasRead(index: number): Promise<void> {
    await this.#reads[index];
  }

  async written(index: number): Promise<void> {
    await this.#writes[index];
  }

  /** Counts a promise among what {@link settled} waits for. */
  track<T>(promise: Promise<T>): Promise<T> {
    this.#all.add(promise);
    promise.catch(() => {}); // whoever awaits it in turn is told
    return promise;
  }

  /** Resolves when nothing of the step touches memory any more. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#all);
  }

  #move(
    index: number,
    move: (
      part: SlotPart,
      slots: NativeBuffer,
      at: number,
      offset: number,
      bytes: number,
    ) => Promise<void> | undefined,
  ): Promise<void> {
    const moves: (Promise<void> | undefined)[] = [];
    const first = index * this.length;
    for (const part of this.parts) {
      if (part.inPlace) continue;
      const offset = part.format.bytes(first);
      const bytes = part.format.bytes(first + this.elements(index)) - offset;
      const moving = move(part, this.#slots as NativeBuffer, this.#slotOffset(part, index), offset, bytes);
      if (moving) moves.push(this.track(moving));
    }
    return this.track(Promise.all(moves).then(() => {}));
  }

  #slotOffset(part: SlotPart, index: number): number {
    return (index % SLOTS) * this.#slotBytes + (this.#slotOffsets.get(part) as number);
  }
}

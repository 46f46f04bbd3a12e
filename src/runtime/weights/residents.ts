// What stays in memory for as long as the model is open: resident matrices, all vectors, computed constants; with
// tensor headers made once.

import type { BufferType, NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { uploadNow } from "../../backend/ggml/transfer.ts";
import { disposeAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { Allocation, type LimitedSource } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { Matrix, PackedRange, Unit } from "../../plan/units.ts";
import {
  isDirect,
  Loader,
  type LoaderContext,
  type Placed,
  type PlacedVector,
  packedSize,
  residentSize,
  vectorGroups,
} from "./loader.ts";
import { ResidentArena } from "./resident-memory.ts";

/** Vectors and constants start at multiples of this. Bytes. */
const VECTOR_ALIGNMENT = 256;
/** Matrices read at the same time, so that the queue never runs dry between two of them. */
const LOADS_IN_FLIGHT = 4;

/** Bytes of the buffer for vectors and constants. */
export function vectorBytes(units: readonly Unit[]): number {
  let total = 0;
  for (const length of units.flatMap((u) => Object.values(vectorLengths(u)))) total += slot(length);
  return Math.max(total, VECTOR_ALIGNMENT);
}

function slot(length: number): number {
  return Math.ceil((length * 4) / VECTOR_ALIGNMENT) * VECTOR_ALIGNMENT;
}

function vectorLengths(unit: Unit): Record<string, number> {
  const lengths: Record<string, number> = {};
  for (const v of unit.vectors) lengths[v.key] = v.length;
  for (const [key, values] of Object.entries(unit.constants)) lengths[key] = values.length;
  return lengths;
}

/** A matrix that is to be loaded. */
interface Staying {
  readonly m: Matrix;
  readonly tier: "gpu" | "cpu";
  /** Where its packed form is, if that is what stays. */
  readonly packed: PackedRange | undefined;
  readonly memory: BufferType;
  /** Gives memory of that type. */
  readonly source: LimitedSource;
  /** The blocks of rows that the matrix is of, where all of them stay: they lie in it. */
  readonly blocks?: readonly Matrix[];
}

/** Blocks of rows of one matrix that stay as they are, on one tier and all of them, are loaded as that matrix. */
function joined(parts: readonly Staying[]): Staying[] {
  const whole: Staying[] = [];
  for (let i = 0; i < parts.length; ) {
    const first = parts[i] as Staying;
    const { within } = first.m;
    let end = i + 1;
    while (within && parts[end]?.m.within?.name === within.name) end++;
    const run = parts.slice(i, end);
    i = end;
    const contiguous = run.every(({ m, tier, packed }, k) => {
      const before = run[k - 1]?.m.source;
      const follows =
        !before || (m.source.file === before.file && m.source.offset === before.offset + before.bytes);
      return follows && tier === first.tier && packed === undefined;
    });
    const rows = run.reduce((sum, { m }) => sum + m.ne[1], 0);
    if (!within || !contiguous || rows !== within.of) {
      whole.push(...run);
      continue;
    }
    const bytes = run.reduce((sum, { m }) => sum + m.bytes, 0);
    const source = {
      ...first.m.source,
      shape: [rows, first.m.ne[0]],
      bytes: run.reduce((sum, { m }) => sum + m.source.bytes, 0),
    };
    const { within: _, ...alike } = first.m;
    const m: Matrix = { ...alike, name: within.name, source, ne: [first.m.ne[0], rows], bytes };
    whole.push({ ...first, m, blocks: run.map((part) => part.m) });
  }
  return whole;
}

/** Where everything goes. */
export interface ResidentDevices {
  /** The one the model was opened on, and the CPU, which may be the same. */
  readonly device: Device;
  readonly cpu: Device;
  /** The one that computes with a unit. */
  readonly computes: (unit: Unit) => Device;
  /** Memory for a matrix in RAM, by its name, where it is to be of another kind. */
  readonly memoryFor?: ((name: string) => LimitedSource | undefined) | undefined;
}

/** In RAM, what a GPU computes with lies where it copies from fastest. */
function memoryOf(tier: "gpu" | "cpu", unit: Unit, { device, cpu, computes }: ResidentDevices): BufferType {
  if (tier === device.kind) return device.memory;
  return computes(unit).onHost ? cpu.memory : device.hostMemory;
}

export class Residents {
  readonly #arena: HeaderArena;
  readonly #memory = new ResidentArena();
  readonly #matrices = new Map<string, { tensor: Tensor; placed: Placed; tier: "gpu" | "cpu" }>();
  readonly #packed = new Map<string, { placed: Placed; bytes: number }>();
  readonly #vectors: Record<string, Tensor>[] = [];
  readonly #vectorPlaces: Record<string, NativeBuffer>[] = [];
  readonly #vectorMemory: Allocation[] = [];

  private constructor(units: readonly Unit[]) {
    // twice: a matrix whose blocks of rows stay is there as a whole, too
    const count = units.reduce((n, u) => n + 2 * u.owned.length + Object.keys(vectorLengths(u)).length, 8);
    this.#arena = new HeaderArena(count);
  }

  /**
   * Loads every unit whose home is memory, in its packed form where the plan says so and there is one, and the vectors of
   * all units. On failure or abort everything taken is freed before the error is thrown.
   */
  static async load(
    units: readonly Unit[],
    { homes, packed }: { homes: readonly Tier[]; packed: ReadonlySet<number> },
    devices: ResidentDevices,
    ctx: LoaderContext,
  ): Promise<Residents> {
    const residents = new Residents(units);
    const loader = new Loader(ctx);
    try {
      const jobs: Load[] = [];
      const parts = units.flatMap((unit): Staying[] => {
        const tier = homes[unit.index] as Tier;
        if (tier === "disk") return [];
        const memory = memoryOf(tier, unit, devices);
        const range = (m: Matrix) => (packed.has(unit.index) ? m.packed : undefined);
        const source = (m: Matrix) => (tier === "cpu" && devices.memoryFor?.(m.name)) || memory;
        return unit.owned.map((m) => ({ m, tier, packed: range(m), memory, source: source(m) }));
      });
      const staying = joined(parts);
      const places = residents.#take(staying, ctx.ledger);
      for (const one of staying) {
        const place = places.get(one.m) as NativeBuffer;
        const staged = one.packed === undefined && !isDirect(one.m, one.memory);
        jobs.push({ staged, run: () => residents.#loadMatrix(one, place, loader) });
      }
      // second, so that the disk has something to do while they are laid out
      const computing = new Set(units.map(devices.computes));
      for (const device of computing) {
        const own = units.filter((unit) => devices.computes(unit) === device);
        const vectors = () => residents.#loadVectors(own, device, ctx.ledger, loader);
        jobs.splice(1, 0, { staged: true, run: vectors });
      }
      await inParallel(jobs);
      return residents;
    } catch (error) {
      undoNowAfter(error, [() => residents.dispose()]);
    } finally {
      loader.dispose();
    }
  }

  /** Takes memory for all of them, those of a kind side by side. */
  #take(staying: readonly Staying[], ledger: Ledger): Map<Matrix, NativeBuffer> {
    const places = new Map<Matrix, NativeBuffer>();
    const kinds = new Map<string, Staying[]>();
    for (const one of staying) {
      // what is read directly starts at whole pages, the rest where it falls
      const kind = one.packed
        ? "packed"
        : `${one.tier} ${isDirect(one.m, one.memory)} ${one.source === one.memory}`;
      const alike = kinds.get(kind);
      if (alike) alike.push(one);
      else kinds.set(kind, [one]);
    }
    for (const [kind, all] of kinds) {
      const { tier, memory, source } = all[0] as Staying;
      const purpose =
        kind === "packed"
          ? ({ tier, what: "packed weights", usage: "any" } as const)
          : ({ tier, what: "weights", usage: "weights" } as const);
      const sizes = all.map(({ m, packed }) => (packed ? packedSize(packed.bytes) : residentSize(m, memory)));
      const parts = this.#memory.take(ledger, source, purpose, sizes);
      for (const [i, { m }] of all.entries()) places.set(m, parts[i] as NativeBuffer);
    }
    return places;
  }

  async #loadMatrix(
    { m, tier, packed, blocks }: Staying,
    place: NativeBuffer,
    loader: Loader,
  ): Promise<void> {
    if (packed) {
      const placed = await loader.packed(m, packed, place);
      this.#packed.set(m.name, { placed, bytes: packed.bytes });
      return;
    }
    const placed = await loader.matrix(m, place);
    const enter = (of: Matrix, offset: number) => {
      const tensor = this.#arena.bind(place, offset, of.dtype, of.ne, of.name);
      this.#matrices.set(of.name, { tensor, placed: { buffer: place, offset }, tier });
    };
    enter(m, placed.offset);
    let at = placed.offset;
    for (const block of blocks ?? []) {
      enter(block, at);
      at += block.bytes;
    }
  }

  async #loadVectors(units: readonly Unit[], device: Device, ledger: Ledger, loader: Loader): Promise<void> {
    const tier = device.kind;
    const bytes = vectorBytes(units);
    const memory = Allocation.take(ledger, tier, device.memory, bytes, "weights", "weights");
    this.#vectorMemory.push(memory);
    const { buffer } = memory;
    const wanted: PlacedVector[] = [];
    let offset = 0;
    for (const unit of units) {
      const tensors: Record<string, Tensor> = {};
      const places: Record<string, NativeBuffer> = {};
      for (const v of unit.vectors) {
        tensors[v.key] = this.#arena.bind(buffer, offset, "f32", [v.length], v.source.name);
        places[v.key] = buffer.part(offset, v.length * 4);
        wanted.push({ ...v, offset });
        offset += slot(v.length);
      }
      for (const [key, values] of Object.entries(unit.constants)) {
        const tensor = this.#arena.bind(buffer, offset, "f32", [values.length], key);
        uploadNow(tensor, values);
        tensors[key] = tensor;
        offset += slot(values.length);
      }
      if (unit.stageIndex in this.#vectors) continue; // they are with the first unit of a stage
      this.#vectors[unit.stageIndex] = tensors;
      this.#vectorPlaces[unit.stageIndex] = places;
    }
    for (const group of vectorGroups(wanted)) await loader.vectors(group, buffer);
  }

  /** Vectors and constants of the unit's stage. */
  vectors(unit: Unit): Readonly<Record<string, Tensor>> {
    return this.#vectors[unit.stageIndex] ?? {};
  }

  /** The memory of a vector: f32, on the computing device. */
  vectorMemory(unit: Unit, key: string): NativeBuffer {
    const place = this.#vectorPlaces[unit.stageIndex]?.[key];
    if (!place) throw new Error(`${unit.name} has no vector "${key}"`);
    return place;
  }

  /** Where the packed form of a matrix stays in RAM, and its bytes; undefined for every other matrix. */
  packed(m: Matrix): { readonly placed: Placed; readonly bytes: number } | undefined {
    return this.#packed.get(m.name);
  }

  /** Where a matrix stays as it is used, or undefined if it streams or stays packed. */
  matrix(m: Matrix): { tensor: Tensor; placed: Placed; tier: "gpu" | "cpu" } | undefined {
    return this.#matrices.get(m.name);
  }

  dispose(): void {
    this.#matrices.clear();
    this.#packed.clear();
    disposeAll([this.#memory, ...this.#vectorMemory, this.#arena]);
  }
}

/** Something to load. */
export interface Load {
  /** It passes through staging memory and the loader's converter, which there is one of. */
  readonly staged: boolean;
  readonly run: () => Promise<void>;
}

/**
 * Begins jobs in order, and has a few under way at a time, of which at most one is staged. After a failure it begins no
 * more, and throws when all have ended.
 */
export async function inParallel(jobs: readonly Load[]): Promise<void> {
  const running = new Set<Promise<void>>();
  let staging: Promise<void> | undefined;
  let failure: { error: unknown } | undefined;
  for (const { staged, run } of jobs) {
    if (staged) await staging;
    while (running.size >= LOADS_IN_FLIGHT) await Promise.race(running);
    if (failure) break;
    const task = run()
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => running.delete(task));
    running.add(task);
    if (staged) staging = task;
  }
  await Promise.all(running);
  if (failure) throw failure.error;
}

// Memory of what trains: the copies that compute (in the model's own memory, or in a state file that is streamed from),
// master copies and moments, each on its tier. Fills them from the checkpoint; stepping them is the updater's business.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { bytesOf, type DType, type FloatDType } from "../../backend/ggml/dtypes.ts";
import { disposeAll, disposeInTurn, runAll, undoAfter } from "../../base/async/cleanup.ts";
import { BudgetError, IoError } from "../../base/errors.ts";
import type { TensorEntry } from "../../formats/types.ts";
import { Allocation } from "../../memory/allocate.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { ReadQueue } from "../../memory/io/read-queue.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { Region, Store } from "../../memory/store.ts";
import { borrowedRegion } from "../../memory/stores/native.ts";
import { SidedRegion } from "../../memory/stores/sided.ts";
import type { Tier } from "../../memory/tiers.ts";
import { type Matrix, type Unit, withMatrices } from "../../plan/units.ts";
import type { EngineParts } from "../../runtime/open/open-model.ts";
import { Converter } from "../../runtime/weights/convert.ts";
import type { LoaderContext } from "../../runtime/weights/loader.ts";
import { pieceBound, readPiece, type SourceFiles } from "../../runtime/weights/sources.ts";
import { Draft } from "../optimizer/draft.ts";
import type { UpdateRule } from "../optimizer/rules/rule.ts";
import { MASTER, type ParameterState } from "../optimizer/state.ts";
import { hasOwnMaster } from "./homes.ts";
import type { Parameter, Parameters } from "./parameters.ts";

/** Elements converted at a time. */
const BLOCK_ELEMENTS = 2 ** 20;

export interface FillContext {
  readonly cpu: Device;
  readonly ledger: Ledger;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  readonly signal?: AbortSignal | undefined;
}

/** Writes a tensor of the checkpoint into a region, as values of `dtype`, a block at a time. */
export async function fillRegion(
  region: Region,
  dtype: FloatDType,
  entry: TensorEntry,
  { cpu, ledger, sources, queue, signal }: FillContext,
): Promise<void> {
  const elements = entry.shape.reduce((a, b) => a * b, 1);
  const block = Math.min(elements, BLOCK_ELEMENTS);
  const wide = pieceBound(bytesOf(entry.dtype as DType, block));
  const converter = new Converter(cpu);
  const bytes = wide + wholeBlocks(bytesOf(dtype, block));
  const memory = Allocation.take(ledger, "cpu", cpu.memory, bytes, "staging");
  try {
    for (let first = 0; first < elements; first += block) {
      const count = Math.min(block, elements - first);
      const at = bytesOf(entry.dtype as DType, first);
      const piece = sources.piece(entry, at, bytesOf(entry.dtype as DType, count));
      await readPiece(queue, piece, memory.buffer, 0, signal);
      const from = { buffer: memory.buffer, offset: piece.shift, dtype: entry.dtype as DType };
      const place = { buffer: memory.buffer, offset: wide, dtype, ne: [count, 1] as const };
      await converter.run({ ...from, width: count, rows: 1 }, place, 0, false);
      await region.write(memory.buffer, wide, bytesOf(dtype, first), bytesOf(dtype, count), signal);
    }
  } finally {
    disposeAll([memory, converter]);
  }
}

/** Places of trained matrices on disk, made while the model loads: see TrainingHooks.place. */
export class DiskWeights {
  readonly #regions = new Map<string, SidedRegion>();

  region(name: string): SidedRegion | undefined {
    return this.#regions.get(name);
  }

  /** Copies every trained matrix whose home is disk into the store; the units read from there afterwards. */
  async place(
    units: readonly Unit[],
    homes: readonly Tier[],
    trains: (name: string) => boolean,
    store: () => Promise<Store>,
    ctx: LoaderContext,
  ): Promise<readonly Unit[]> {
    const moved = new Map<string, Matrix>();
    for (const unit of units) {
      if (homes[unit.index] !== "disk") continue;
      for (const m of unit.owned) {
        if (!trains(m.name)) continue;
        const region = new SidedRegion(await (await store()).allocate(m.bytes, "weights", "beside"));
        this.#regions.set(m.name, region);
        await fillRegion(region, m.dtype as FloatDType, m.source, ctx);
        ctx.onBytes(m.name, m.source.bytes);
        const file = ctx.sources.addPlace(() => region.file as NonNullable<Region["file"]>);
        const source = { ...m.source, dtype: m.dtype, file, offset: 0, bytes: m.bytes };
        moved.set(m.name, { ...m, source });
      }
    }
    return withMatrices(units, moved);
  }
}

export interface StateOptions {
  readonly parameters: Parameters;
  readonly rule: UpdateRule;
  readonly device: Device;
  readonly parts: EngineParts;
  readonly disk: DiskWeights;
  /** Of master copies and moments. */
  readonly store: Store;
  /** Original tensors, by name. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly fill: FillContext;
}

/** The training state of every parameter, and what has to be freed with it. */
export interface TrainedStates {
  readonly states: readonly ParameterState[];
  /** Memory of low-rank weights on the computing device, by the parameter's index. */
  readonly lowRank: ReadonlyMap<number, NativeBuffer>;
  dispose(): Promise<void>;
}

/** Throws BudgetError, IoError; what was taken is freed then. */
export async function openStates(o: StateOptions): Promise<TrainedStates> {
  const states: ParameterState[] = [];
  const lowRank = new Map<number, NativeBuffer>();
  const taken: { dispose(): void | Promise<void> }[] = [];
  const dispose = () => disposeInTurn(taken.splice(0).reverse());
  const region = async (store: Store, bytes: number, what: string) => {
    const one = await store.allocate(bytes, what, "beside"); // passes go first
    const made = one.tier === "disk" ? new SidedRegion(one) : one;
    taken.push({ dispose: () => made.free() });
    return made;
  };
  try {
    for (const p of o.parameters.all) {
      const working = p.kind === "low-rank" ? lowRankMemory(p, o, taken, lowRank) : workingRegion(p, o);
      const own = hasOwnMaster(p, o.device.kind, working.tier);
      const master = own ? await region(o.store, MASTER.bytes(p.elements), MASTER.name) : working;
      const entry = o.entries.get(p.name);
      if (own && entry) await fillRegion(master, "f32", entry, o.fill);
      const moments: Region[] = [];
      for (const format of o.rule.moments)
        moments.push(await region(o.store, format.bytes(p.elements), format.name));
      states.push({
        ...{ name: p.name, elements: p.elements, master, moments },
        ...(own && { working: { region: working, dtype: p.dtype } }),
      });
    }
    return { states, lowRank, dispose };
  } catch (error) {
    return await undoAfter(error, [dispose]);
  }
}

export interface DraftOptions {
  readonly parameters: Parameters;
  readonly states: readonly ParameterState[];
  /** Whether a parameter whose weights live there has second places. */
  hasDraft(p: Parameter, home: Tier): boolean;
  readonly disk: DiskWeights;
  readonly stores: {
    /** Of trained weights on disk. */
    readonly weights: Store | undefined;
    /** Of master copies and moments. */
    readonly states: Store;
    readonly ram: Store;
  };
}

/**
 * Second places for what is updated ahead, by the parameter's index: for all that are to have them, or for none where
 * there is no room. To be taken once everything else has its own.
 */
export async function openDrafts(o: DraftOptions): Promise<Map<number, Draft>> {
  const drafts = new Map<number, Draft>();
  try {
    for (const p of o.parameters.all) {
      const state = o.states[p.index] as ParameterState;
      if (!o.hasDraft(p, (state.working?.region ?? state.master).tier)) continue;
      const weights = o.disk.region(p.name);
      const diskOf = (region: SidedRegion) => (region === weights && o.stores.weights) || o.stores.states;
      drafts.set(p.index, await Draft.take(state, { diskOf, ram: o.stores.ram }));
    }
    return drafts;
  } catch (error) {
    await runAll(Array.from(drafts.values(), (draft) => () => draft.free()));
    if (error instanceof BudgetError || error instanceof IoError) return new Map(); // they only save time
    throw error;
  }
}

/** Where the copy of a model's parameter that computes lies. */
function workingRegion(p: Parameter, { parts, disk, device }: StateOptions): Region {
  const onDisk = disk.region(p.name);
  if (onDisk) return onDisk;
  const use = p.uses[0];
  const unit = parts.units[use?.unit ?? -1];
  if (!use || !unit) throw new Error(`${p.name} has no stage`);
  if (p.kind === "vector")
    return borrowedRegion(device.kind, parts.residents.vectorMemory(unit, use.key), p.name);
  const matrix = unit.matrices[use.key];
  const resident = matrix && parts.residents.matrix(matrix);
  if (!resident) throw new Error(`${p.name} is neither in memory nor in a state file`);
  const { buffer, offset } = resident.placed;
  return borrowedRegion(resident.tier, buffer.part(offset, matrix.bytes), p.name);
}

function lowRankMemory(
  p: Parameter,
  { device, parts }: StateOptions,
  taken: { dispose(): void | Promise<void> }[],
  lowRank: Map<number, NativeBuffer>,
): Region {
  const allocation = Allocation.take(
    parts.ledger,
    device.kind,
    device.memory,
    p.elements * 4,
    "low-rank weights",
  );
  taken.push(allocation);
  lowRank.set(p.index, allocation.buffer);
  return borrowedRegion(device.kind, allocation.buffer, p.name);
}

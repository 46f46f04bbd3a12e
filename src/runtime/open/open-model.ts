// Loads what the plan calls for, and gives it back: each piece of memory with its step in a cleanup.
import type { LoraTarget } from "../../adapters/index.ts";
import type { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import { Cleanup, runAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { throwIfAborted } from "../../base/errors.ts";
import { joinNotes } from "../../base/notes.ts";
import { defaultDepth } from "../../memory/io/io-turns.ts";
import { ReadQueue } from "../../memory/io/read-queue.ts";
import { Ledger } from "../../memory/ledger.ts";
import { HOST, MAIN, type Plan, type Site } from "../../plan/plan.ts";
import { type Matrix, type Unit, withMatrices } from "../../plan/units.ts";
import { KvCache, KvPlaces, type LayerPlace } from "../state/kv-cache.ts";
import { AdapterWeights, adapterFileBytes } from "../step/adapter.ts";
import { Executor } from "../step/executor.ts";
import type { PassInputs } from "../step/inputs.ts";
import { samplingBytes } from "../step/logits-memory.ts";
import { gatheredTables } from "../step/measure.ts";
import type { Side } from "../step/side.ts";
import { DamagedCopyError } from "../weights/copies/checksums.ts";
import { needConversion, offloadCopy, redirect } from "../weights/copies/offload-copy.ts";
import { needPacking, packedBound, packedCopy, packedMatrices } from "../weights/copies/packed-copy.ts";
import type { LoaderContext } from "../weights/loader.ts";
import { Progress } from "../weights/progress.ts";
import { Residents } from "../weights/residents.ts";
import { RowReader } from "../weights/row-reader.ts";
import { SourceFiles } from "../weights/sources.ts";
import { StateDict } from "../weights/state-dict.ts";
import type { UnitStreamer } from "../weights/streamer.ts";
import { openSide } from "./open-side.ts";
import { type EngineOptions, prepare } from "./prepare.ts";
import { closeDevices, type Prepared } from "./prepared.ts";
/** What a loaded model is made of. For the parts of the library that use its weights in their own way, such as training. */
export interface EngineParts {
  readonly ledger: Ledger;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  /** The model's units, those on disk reading from a converted copy where there is one. */
  readonly units: readonly Unit[];
  readonly residents: Residents;
  /** The adapter the model was opened with. */
  readonly adapter: AdapterWeights | undefined;
  /** The devices that compute; the parts of the one the model was opened on are those below. */
  readonly sides: readonly Side[];
  readonly streamer: UnitStreamer | undefined;
  readonly rows: RowReader;
  readonly inputs: PassInputs;
  readonly graphs: GraphMemory;
  readonly executor: Executor;
  /** Rejects where a file was changed that weights are read from while the model runs; undefined where none is. */
  readonly checkUnchanged: (() => Promise<void>) | undefined;
}

/** What is there while a model is open. */
export interface OpenModel {
  readonly prepared: Prepared;
  readonly options: EngineOptions;
  readonly parts: EngineParts;
  kv: KvCache;
  readonly cleanup: Cleanup;
}

export async function openModel(dir: string, options: EngineOptions): Promise<OpenModel> {
  try {
    return await openOnce(dir, options);
  } catch (error) {
    // The copy was removed when that was found: it is made anew.
    if (!(error instanceof DamagedCopyError)) throw error;
    const open = await openOnce(dir, options);
    const notes = joinNotes(open.prepared.notes, [`${error.file} was damaged: it was made anew`]);
    return { ...open, prepared: { ...open.prepared, notes } };
  }
}

async function openOnce(dir: string, options: EngineOptions): Promise<OpenModel> {
  throwIfAborted(options.signal);
  const cleanup = new Cleanup();
  try {
    const prepared = await prepare(dir, options);
    cleanup.add(() => closeDevices(prepared));
    for (const warning of prepared.notes) await options.warning_callback?.(warning);
    return { ...(await load(prepared, options, cleanup)), options, cleanup };
  } catch (error) {
    return await cleanup.runAfter(error);
  }
}

export async function releaseModel({ kv, cleanup }: OpenModel): Promise<void> {
  await runAll([() => kv.dispose(), () => cleanup.run()]);
}

/** Takes and fills everything the plan calls for, entering each part in `cleanup` as it is made. */
async function load(
  expected: Prepared,
  options: EngineOptions,
  cleanup: Cleanup,
): Promise<{ prepared: Prepared; parts: EngineParts; kv: KvCache }> {
  const { cpu, device, budgets, spec } = expected;
  const ledger = new Ledger(budgets);
  const depth = Math.max(1, defaultDepth() - (device.onHost ? 0 : 1)); // a GPU's copies need a thread too
  const queue = new ReadQueue({ depth, beforeRead: options.beforeRead });
  const sources = await SourceFiles.open(expected.checkpoint);
  cleanup.add(() => sources.close());
  const progress = new Progress(options.progress_callback);
  const ctx: LoaderContext = {
    cpu,
    sources,
    queue,
    ledger,
    signal: options.signal,
    onBytes: (name, bytes) => progress.add(name, bytes),
  };
  const { units, plan, notes } = await withCopies(expected, options, ctx, progress, cleanup);
  const prepared: Prepared = { ...expected, plan, notes: joinNotes(expected.notes, notes) };
  progress.begin(bytesToRead(units, plan) + adapterFileBytes(prepared.adapter));
  const naive = options.low_cpu_mem_usage === false;
  const stateDict = naive ? await StateDict.read(prepared.checkpoint, ctx) : undefined;
  let residents: Residents;
  try {
    residents = await Residents.load(
      units,
      plan,
      {
        device,
        cpu,
        computes: (unit) => (plan.computeOf[unit.stageIndex] === HOST ? cpu : device),
        memoryFor: device.onHost ? options.training?.memoryFor : undefined,
      },
      stateDict ? { ...ctx, stateDict } : ctx,
    );
  } finally {
    stateDict?.dispose();
  }
  cleanup.add(() => residents.dispose());
  const adapter = await loadAdapter(prepared, ctx);
  if (adapter) cleanup.add(() => adapter.dispose());
  await sources.checkUnchanged(); // what was loaded is of one piece
  await progress.end();
  throwIfAborted(options.signal);

  const rowQueue = new ReadQueue({ urgency: "now", beforeRead: options.beforeRead });
  const rows = new RowReader(cpu, ledger, residents, sources, gatheredTables(units), rowQueue);
  cleanup.add(() => rows.dispose());
  const sampling = ledger.reserve("cpu", samplingBytes(spec.vocab_size), "sampling");
  cleanup.add(() => sampling.release());
  const kv = new KvCache(spec, prepared.kv_dtype, prepared.rows, kvPlaces(prepared, ledger));
  const sides = new Map<Site, Side>();
  try {
    const common = { prepared, units, ledger, residents, sources, queue };
    for (const site of new Set(plan.computeOf)) sides.set(site, openSide(site, common, cleanup));
  } catch (error) {
    undoNowAfter(error, [() => kv.dispose()]);
  }
  const read = filesReadByPass(units, plan);
  const checkUnchanged = read.size > 0 ? () => sources.checkUnchanged(read) : undefined;
  const sideOf = (stage: number) => sides.get(plan.computeOf[stage] as Site) as Side;
  const executor = new Executor({ checkUnchanged, spec, units, sideOf, residents, rows, ledger, adapter });
  cleanup.add(() => executor.dispose());
  const parts = { ledger, sources, queue, units, residents, adapter, rows, executor, checkUnchanged };
  const { streamer, inputs, graphs } = sides.get(MAIN) ?? sideOf(0);
  return { prepared, parts: { ...parts, sides: [...sides.values()], streamer, inputs, graphs }, kv };
}

async function loadAdapter(
  { adapter, device, cpu, plan, spec }: Prepared,
  ctx: LoaderContext,
): Promise<AdapterWeights | undefined> {
  if (!adapter) return undefined;
  const stageOf = new Map(
    spec.stages.flatMap(({ weights }, i) => Object.values(weights).map(({ name }) => [name, i] as const)),
  );
  const deviceOf = ({ weight }: LoraTarget) =>
    plan.computeOf[stageOf.get(weight.name) ?? 0] === HOST ? cpu : device;
  return AdapterWeights.load(adapter, await ctx.sources.add(adapter.checkpoint), deviceOf, ctx);
}

/**
 * The units, reading from converted and packed copies where such are wanted, and the plan, which may be another once it is
 * known what is smaller packed.
 */
async function withCopies(
  prepared: Prepared,
  options: EngineOptions,
  ctx: LoaderContext,
  progress: Progress,
  cleanup: Cleanup,
): Promise<{ units: readonly Unit[]; plan: Plan; notes: readonly string[] }> {
  const notes: string[] = [];
  const { training, offload_folder } = options;
  const { checkpoint, plan, packing } = prepared;
  let units = training
    ? await training.place(prepared, prepared.model.units, ctx, (step) => cleanup.add(step))
    : prepared.model.units;
  const known = (m: Matrix) => !training?.trains(m.name);
  const fromCopy = (u: Unit) => plan.homes[u.index] === "disk" || (packing?.units.has(u.index) ?? false);
  const originals = new Map(units.flatMap((u) => u.owned.map((m) => [m.name, m])));

  const converted = needConversion(units, fromCopy).filter(known);
  if (converted.length > 0) {
    progress.begin(converted.reduce((sum, m) => sum + m.source.bytes, 0));
    const bytes = converted.reduce((sum, m) => sum + m.bytes, 0);
    const entry = ctx.ledger.reserve("disk", bytes, "converted weights");
    cleanup.add(() => entry.release());
    const byRow = new Set(
      gatheredTables(units).flatMap((m) => [m, ...(m.rowBlocks ?? [])].map(({ name }) => name)),
    );
    const kept = await offloadCopy(checkpoint, converted, offload_folder, ctx, byRow);
    notes.push(...kept.notes);
    const { copy } = kept;
    const firstFile = await ctx.sources.add(copy, kept.checksums);
    units = withMatrices(units, new Map(converted.map((m) => [m.name, redirect(m, copy, firstFile)])));
  }

  if (!packing) return { units, plan, notes };
  const packable = needPacking(units.filter((u) => packing.units.has(u.index))).filter(known);
  if (packable.length > 0) {
    // Every byte is read twice: to see which exponents there are, and to pack it.
    progress.begin(packable.reduce((sum, m) => sum + 2 * m.bytes, 0));
    const bytes = packable.reduce((sum, m) => sum + packedBound(m), 0);
    const entry = ctx.ledger.reserve("disk", bytes, "packed weights");
    cleanup.add(() => entry.release());
    const sources = packable.map((m) => originals.get(m.name) as Matrix);
    const kept = await packedCopy(checkpoint, { matrices: packable, sources }, offload_folder, ctx);
    notes.push(...kept.notes);
    const { copy } = kept;
    const firstFile = await ctx.sources.add(copy, kept.checksums);
    units = withMatrices(units, packedMatrices(packable, copy, firstFile));
    entry.resize(units.flatMap((u) => u.owned).reduce((sum, m) => sum + (m.packed?.bytes ?? 0), 0));
  }
  return { units, plan: packing.replan(units), notes };
}

/** The files that weights are read from while the model runs. */
function filesReadByPass(units: readonly Unit[], { homes }: Plan): Set<number> {
  const onDisk = units.filter((unit) => homes[unit.index] === "disk");
  return new Set(onDisk.flatMap((unit) => unit.owned.map((m) => (m.packed ?? m.source).file)));
}

function bytesToRead(units: readonly Unit[], { homes, packed }: Plan): number {
  let total = 0;
  for (const unit of units) {
    for (const v of unit.vectors) total += v.source.bytes;
    if (homes[unit.index] === "disk") continue;
    for (const m of unit.owned)
      total += packed.has(unit.index) ? (m.packed?.bytes ?? m.source.bytes) : m.source.bytes;
  }
  return total;
}

/** Where each layer's keys and values go: to the device that computes it. */
export function kvPlaces({ spec, kv_dtype, plan, device, cpu }: Prepared, ledger: Ledger): KvPlaces {
  const layers: LayerPlace[] = [];
  for (const [index, { layer }] of spec.stages.entries()) {
    if (layer === undefined) continue;
    const { kind: tier, memory } = plan.computeOf[index] === HOST ? cpu : device;
    layers[layer] = { tier, memory };
  }
  return new KvPlaces(ledger, spec, kv_dtype, layers);
}

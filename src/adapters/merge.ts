// Merges an adapter into its base: a new checkpoint with W + scale B A in the place of W, written tensor by tensor in
// bounded memory. The base and the adapter are only read.

import { mkdir, rename, rm, rmdir } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { Device, findDevice } from "../backend/ggml/device.ts";
import { DTYPES, type FloatDType } from "../backend/ggml/dtypes.ts";
import { disposeInTurn } from "../base/async/cleanup.ts";
import { Listener, requireFunctions } from "../base/async/listener.ts";
import { ConfigError, throwIfAborted } from "../base/errors.ts";
import { temporaryName } from "../base/files/temporary.ts";
import { joinNotes } from "../base/notes.ts";
import { listFolder, statIfPresent } from "../formats/files/files.ts";
import { type Checkpoint, type TensorSource, writeSharded } from "../formats/index.ts";
import { copyOthers, namedDType, refused } from "../formats/model-folder.ts";
import { Ledger } from "../memory/ledger.ts";
import { threadCount } from "../memory/limits.ts";
import { openBaseModel } from "../models/base-model.ts";
import type { ModelSpec } from "../models/spec.ts";
import { resolveName } from "../models/ties.ts";
import { type MaxMemory, parseMaxMemory, parseWeightDType, type WeightDType } from "../plan/options.ts";
import { type ModelUnits, modelUnits } from "../plan/units.ts";
import { putEndIds } from "./end-token.ts";
import { type Adapter, openAdapter } from "./files.ts";
import { type Joined, joinSaved } from "./join.ts";
import { TensorMerger, type Update } from "./merge-tensors.ts";
import { putTokenizer } from "./own-tokenizer.ts";

export interface MergeOptions {
  /** Type of the merged weights: "auto" keeps the base's of each tensor; else float32, float16, bfloat16. */
  readonly dtype?: WeightDType;
  /** Bytes of RAM that may be taken: { cpu }. Default: no limit, which takes up to about 200 MiB. */
  readonly max_memory?: MaxMemory;
  readonly signal?: AbortSignal;
  /** Called with bytes of weights written so far and in all. */
  readonly progress?: (done: number, total: number) => void;
}

/** What a merge made. */
export interface MergeResult {
  /** Absolute path of the new checkpoint. */
  readonly path: string;
  /** Names of its files of weights. */
  readonly files: readonly string[];
  readonly tensors: number;
  /** Bytes of its weights. */
  readonly bytes: number;
  /** Matrices that got an update added. */
  readonly merged: number;
  /** Parameters taken whole from the adapter. */
  readonly replaced: number;
  /** Weights the base shares with another that are now a tensor of their own. */
  readonly untied: readonly string[];
  /** What the base's files hold that is not used, and so not in the merged ones. */
  readonly warnings: readonly string[];
  /** Files beside the base's weights that were not copied, because they may say something else of the folder. */
  readonly left_out: readonly string[];
}

/**
 * Merges the adapter in `adapterDir` into the checkpoint in `baseDir`, into the folder `outDir`, which must not exist
 * or be empty. Updates are added in f32 and rounded once, to the base's type. Split into files like the base. Files
 * beside the weights (config, tokenizer) are copied. Holds pieces of a fixed size, whatever the tensors' sizes: up to about
 * 200 MiB, or what `max_memory` says.
 *
 * Throws ConfigError for a folder or dtype that cannot be used, CheckpointError if base and adapter do not fit,
 * UnsupportedError, IoError, BudgetError, AbortError. After a throw there is nothing in `outDir`.
 */
export async function mergeAdapter(
  baseDir: string,
  adapterDir: string,
  outDir: string,
  options: MergeOptions = {},
): Promise<MergeResult> {
  const { signal } = options;
  requireFunctions(options, ["progress"]);
  throwIfAborted(signal);
  const dtype = parseWeightDType(options.dtype ?? "auto");
  const ledger = new Ledger(parseMaxMemory(options.max_memory));
  const out = resolve(outDir);
  await refuseFull(out);
  const { config, spec, checkpoint: base, apart: ownHead, notes } = await openBaseModel(baseDir, signal);
  const adapter = await openAdapter(adapterDir, spec, { base, ...(signal && { signal }) });
  // With an update of its own a shared head is not shared any more.
  const updated = new Set(adapter.targets.map(({ weight }) => weight.name));
  const ties = Object.entries(spec.tied);
  const apart = new Set(ties.filter((tie) => tie.some((name) => updated.has(name))).map(([alias]) => alias));
  const joined = joinSaved(base, spec, adapter, apart);
  const model = modelUnits(joined.spec, joined.checkpoint, { dtype: "auto" }); // throws where base and config do not fit
  const untied = Object.keys(spec.tied).filter((alias) => joined.spec.tied[alias] === undefined);
  const changed = {
    ...(untied.length + ownHead.length > 0 && { tie_word_embeddings: false }),
    ...(joined.spec.vocab_size !== spec.vocab_size && { vocab_size: joined.spec.vocab_size }),
    ...(dtype !== "auto" && namedDType(config, DTYPES[dtype].torch)),
  };

  return wholeFolder(out, async (folder) => {
    const left_out = await copyOthers(
      resolve(baseDir),
      folder,
      { ...config, ...changed },
      Object.keys(changed).length > 0,
    );
    await putTokenizer(resolve(adapterDir), folder);
    await putEndIds(resolve(adapterDir), folder);
    const cpu = Device.open(findDevice("cpu"), { threads: threadCount(), adaptive: true });
    const merger = new TensorMerger(cpu, ledger);
    try {
      const tensors = mergedTensors(merger, { base, spec, adapter, joined, model, dtype });
      const progress = new Listener(options.progress);
      const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0);
      const files = await writeSharded(folder, tensors, {
        max_shard_bytes: shardBytes(base, dtype),
        ...(Object.keys(base.metadata).length > 0 && { metadata: base.metadata }),
        signal,
        progress: (done, total) => progress.tell(done, total),
      });
      await progress.settled();
      const warnings = joinNotes(notes, model.notes);
      const counts = {
        merged: adapter.targets.length,
        replaced: adapter.saved.length + adapter.tables.length,
        untied,
        warnings,
        left_out,
      };
      return { path: out, files, tensors: tensors.length, bytes: total, ...counts };
    } finally {
      await disposeInTurn([merger, cpu]);
    }
  });
}

interface Parts {
  readonly base: Checkpoint;
  readonly spec: ModelSpec;
  readonly adapter: Adapter;
  readonly joined: Joined;
  readonly model: ModelUnits;
  readonly dtype: "auto" | FloatDType;
}

/** The tensors to write, in the order of the base's files. */
function mergedTensors(merger: TensorMerger, parts: Parts): (TensorSource & { bytes: number })[] {
  const { base, spec, adapter, joined } = parts;
  const { checkpoint } = joined;
  const updates = new Map<string, Update>();
  for (const target of adapter.targets) {
    const factor = (name: string) => ({
      checkpoint: adapter.checkpoint,
      entry: adapter.checkpoint.tensors.get(name)!, // openAdapter has checked it
    });
    const name = resolveName(joined.spec, checkpoint, target.weight.name);
    updates.set(name, { target, a: factor(target.a), b: factor(target.b) });
  }
  const used = new Set(
    parts.model.units.flatMap(({ matrices, vectors }) => [
      ...Object.values(matrices).map((m) => m.name),
      ...vectors.map((v) => v.source.name),
    ]),
  );
  const entries = [...checkpoint.tensors.values()].filter(({ name }) => used.has(name));
  return entries.map((entry) => {
    const { name, shape } = entry;
    // What the adapter keeps in f32 becomes what the base has in its place.
    const stored = (base.tensors.get(resolveName(spec, base, name)) ?? entry).dtype;
    const dtype = parts.dtype !== "auto" ? parts.dtype : stored === "f64" ? "f32" : stored;
    const bytes = shape.reduce((a, b) => a * b, 1) * DTYPES[dtype].bytes;
    return {
      name,
      shape,
      dtype,
      bytes,
      data: merger.chunks({ checkpoint, entry }, dtype, updates.get(name)),
    };
  });
}

/** Bytes of the largest file of the base, had it the merged type; no limit for a base in one file. */
function shardBytes(base: Checkpoint, dtype: "auto" | FloatDType): number {
  if (base.files.length < 2) return Number.POSITIVE_INFINITY;
  const sizes = new Array<number>(base.files.length).fill(0);
  for (const entry of base.tensors.values()) {
    const size = DTYPES[dtype === "auto" ? entry.dtype : dtype].bytes;
    sizes[entry.file]! += entry.shape.reduce((a, b) => a * b, size);
  }
  return Math.max(...sizes);
}

/** Throws ConfigError unless there is nothing at `path`, or an empty folder. */
async function refuseFull(path: string): Promise<void> {
  const stats = await statIfPresent(path);
  if (stats === undefined) return;
  if (!stats.isDirectory())
    throw new ConfigError(`${path} is not a folder; name one that does not exist yet`);
  if ((await listFolder(path)).length > 0)
    throw new ConfigError(`${path} is not empty; name a folder that does not exist yet`);
}

/** Fills a folder beside `path`, which then takes its name; on failure it is removed with all that is in it. */
async function wholeFolder<T>(path: string, fill: (folder: string) => Promise<T>): Promise<T> {
  const folder = await refused("the folder could not be made", path, async () => {
    await mkdir(dirname(path), { recursive: true });
    const beside = temporaryName(path, { hidden: true });
    await mkdir(beside);
    return beside;
  });
  try {
    const result = await fill(folder);
    await refuseFull(path);
    await refused("the finished folder could not be given its name", path, async () => {
      if ((await statIfPresent(path)) !== undefined) await rmdir(path);
      await rename(folder, path);
    });
    return result;
  } catch (error) {
    await rm(folder, { recursive: true, force: true }).catch(() => undefined);
    throw error;
  }
}

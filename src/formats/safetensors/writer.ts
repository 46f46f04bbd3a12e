// Writes safetensors files in bounded memory: headers are laid out first, then data streams through, chunk by chunk.
// A file, and the index of a sharded checkpoint, appears whole or not at all.
import { mkdir, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { CheckpointError, IoError, throwIfAborted } from "../../base/errors.ts";
import { inGroups } from "../../base/groups.ts";
import { listFolder } from "../files/files.ts";
import { replaceFile, requireSpace, type Sink, type StagedFile, stageFile } from "../files/staged-file.ts";
import { checkTensors, type Laid, type Layout, layOut, type TensorSpec } from "../layout.ts";
import { INDEX_FILE, SINGLE_FILE } from "../open.ts";

/** A tensor to be written, with its data. */
export interface TensorSource extends TensorSpec {
  /**
   * Row-major little-endian bytes: all of them, or chunks of any length which are asked for when their turn comes
   * (a chunk may be reused once the next one is asked for). "zeros" becomes a hole that takes no room on the device.
   */
  readonly data: Uint8Array | AsyncIterable<Uint8Array> | "zeros";
}

export interface WriteOptions {
  /** `__metadata__`. Loaders of the transformers library want `{ format: "pt" }`. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after every chunk with the bytes of tensor data so far and in all. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
  /** Called when all is written and nothing has its name yet; what it throws leaves everything as it was. */
  readonly beforeCommit?: (() => Promise<void>) | undefined;
}

export interface ShardedOptions extends WriteOptions {
  /** Most bytes of tensor data in a file; a larger tensor gets a file of its own. Default 5e9, as on the Hub. */
  readonly max_shard_bytes?: number | undefined;
}

/**
 * Writes one safetensors file at `path`, replacing what was there only once the new one is complete and on the device.
 * Throws CheckpointError for tensors that cannot be written or whose data is not as long as shape and dtype say,
 * IoError (with the bytes needed) when the device is full or refuses, AbortError. After a throw nothing is left behind.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorSource>,
  options: WriteOptions = {},
): Promise<void> {
  const target = resolve(path);
  const layout = layOut(target, tensors, options.metadata);
  checkWhole(target, layout.tensors);
  await requireSpace(dirname(target), occupied([layout]));
  const meter = new Meter([layout], options);
  await replaceFile(target, layout.bytes, async (sink) => {
    await writeBody(sink, target, layout, meter);
    await options.beforeCommit?.();
  });
}

/**
 * Writes a checkpoint into the folder `dir` (made if need be): `model.safetensors` if everything fits in one shard,
 * otherwise `model-00001-of-0000N.safetensors` ... in the order given, and `model.safetensors.index.json`.
 *
 * All files are complete before the first takes its name; then a checkpoint that was in the folder is replaced. If that
 * last step is cut short, the folder has no index, so a mixture is never opened. Metadata defaults to `{ format: "pt" }`.
 * Returns the names of the shards. Throws as {@link writeSafetensors}.
 */
export async function writeSharded(
  dir: string,
  tensors: Iterable<TensorSource>,
  options: ShardedOptions = {},
): Promise<string[]> {
  const folder = resolve(dir);
  const { max_shard_bytes: limit = 5e9, metadata = { format: "pt" } } = options;
  if (!(limit > 0))
    throw new CheckpointError(`max_shard_bytes is ${limit}, it must be above 0`, { file: folder });
  const groups = split(checkTensors(folder, tensors), limit);
  const names = groups.map((_, i) =>
    groups.length === 1 ? SINGLE_FILE : `model-${pad(i + 1)}-of-${pad(groups.length)}.safetensors`,
  );
  const layouts = groups.map((group, i) => layOut(join(folder, names[i]!), group, metadata));
  for (const [i, layout] of layouts.entries()) checkWhole(join(folder, names[i]!), layout.tensors);
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw new IoError("the folder could not be made", folder, { cause: error });
  }
  await requireSpace(folder, occupied(layouts));

  const meter = new Meter(layouts, options);
  const staged: StagedFile[] = [];
  try {
    for (const [i, layout] of layouts.entries()) {
      const target = join(folder, names[i]!);
      staged.push(await stageFile(target, layout.bytes, (sink) => writeBody(sink, target, layout, meter)));
    }
    if (groups.length > 1) {
      const index = indexJson(names, layouts);
      staged.push(await stageFile(join(folder, INDEX_FILE), index.length, (sink) => sink.append(index)));
    }
  } catch (error) {
    for (const file of staged) await file.discard();
    throw error;
  }
  await takeOver(folder, staged);
  return names;
}

async function writeBody(
  sink: Sink,
  path: string,
  layout: Layout<TensorSource>,
  meter: Meter,
): Promise<void> {
  meter.check();
  await sink.append(layout.header);
  for (const { tensor, bytes } of layout.tensors) {
    const bad = (problem: string) => new CheckpointError(problem, { file: path, tensor: tensor.name });
    const begin = sink.position;
    if (tensor.data === "zeros") {
      await sink.skip(bytes);
      meter.add(bytes);
      continue;
    }
    for await (const chunk of tensor.data instanceof Uint8Array ? [tensor.data] : tensor.data) {
      if (!(chunk instanceof Uint8Array)) throw bad("its data has a chunk that is not a Uint8Array");
      const given = sink.position - begin + chunk.length;
      if (given > bytes) throw bad(`its data is ${given} bytes or more, ${describe(tensor, bytes)}`);
      await sink.append(chunk);
      meter.add(chunk.length);
    }
    const given = sink.position - begin;
    if (given !== bytes) throw bad(`its data ended after ${given} bytes, ${describe(tensor, bytes)}`);
  }
}

function describe({ shape, dtype }: TensorSpec, bytes: number): string {
  return `shape [${shape}] of ${dtype} needs ${bytes}`;
}

/** Data given whole is judged before anything is written. */
function checkWhole(path: string, tensors: readonly Laid<TensorSource>[]): void {
  for (const { tensor, bytes } of tensors) {
    const { name, data } = tensor;
    if (data instanceof Uint8Array && data.length !== bytes) {
      const problem = `its data is ${data.length} bytes, ${describe(tensor, bytes)}`;
      throw new CheckpointError(problem, { file: path, tensor: name });
    }
  }
}

/** Bytes that files with these layouts take on the device: holes take none. */
function occupied(layouts: readonly Layout<TensorSource>[]): number {
  let total = 0;
  for (const { bytes, tensors } of layouts) {
    total += bytes;
    for (const laid of tensors) if (laid.tensor.data === "zeros") total -= laid.bytes;
  }
  return total;
}

/** Consecutive groups of at most `limit` bytes, or of one tensor. One empty group if there are no tensors. */
function split(tensors: readonly Laid<TensorSource>[], limit: number): TensorSource[][] {
  const groups = inGroups(tensors, limit, ({ bytes }) => bytes);
  return groups.length > 0 ? groups.map((group) => group.map(({ tensor }) => tensor)) : [[]];
}

function pad(n: number): string {
  return String(n).padStart(5, "0");
}

function indexJson(names: readonly string[], layouts: readonly Layout<TensorSpec>[]): Uint8Array {
  const map: [string, string][] = [];
  let size = 0;
  let parameters = 0;
  for (const [i, { tensors }] of layouts.entries()) {
    for (const { tensor, bytes } of tensors) {
      map.push([tensor.name, names[i]!]);
      size += bytes;
      parameters += tensor.shape.reduce((a, b) => a * b, 1);
    }
  }
  map.sort(([a], [b]) => (a < b ? -1 : 1));
  const metadata = { total_parameters: parameters, total_size: size };
  const json = JSON.stringify({ metadata, weight_map: Object.fromEntries(map) }, null, 2);
  return new TextEncoder().encode(`${json}\n`);
}

const SHARD_NAME = /^model-\d{5}-of-\d{5}\.safetensors$/;

/** Gives complete files their names and removes what an earlier checkpoint left, in an order that never mixes the two. */
async function takeOver(folder: string, staged: readonly StagedFile[]): Promise<void> {
  const index = staged.at(-1)!.target === join(folder, INDEX_FILE) ? staged.at(-1) : undefined;
  const kept = new Set(staged.map(({ target }) => target));
  let failure: unknown;
  const attempt = async (step: Promise<void>): Promise<void> => {
    try {
      await step;
    } catch (error) {
      failure ??= error;
    }
  };
  if (index) {
    try {
      await remove(join(folder, SINGLE_FILE));
      await remove(join(folder, INDEX_FILE));
    } catch (error) {
      for (const file of staged) await file.discard();
      throw error;
    }
  }
  // A shard that cannot be renamed stays under its temporary name, which its error gives: the data is complete.
  for (const file of staged) if (file !== index) await attempt(file.commit());
  if (index) await attempt(failure === undefined ? index.commit() : index.discard());
  if (failure !== undefined) throw failure;

  // From here on the new checkpoint is what is opened.
  if (!index) await remove(join(folder, INDEX_FILE));
  for (const name of await listFolder(folder)) {
    const path = join(folder, name);
    if (SHARD_NAME.test(name) && !kept.has(path)) await remove(path);
  }
}

async function remove(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw new IoError("the earlier checkpoint's file could not be removed", path, { cause: error });
  }
}

/** Counts tensor bytes for progress, and looks at the signal while it is at it. */
class Meter {
  #done = 0;
  readonly #total: number;
  readonly #options: WriteOptions;

  constructor(layouts: readonly Layout<TensorSpec>[], options: WriteOptions) {
    this.#options = options;
    this.#total = layouts.reduce((sum, { bytes, header }) => sum + bytes - header.length, 0);
  }

  check(): void {
    throwIfAborted(this.#options.signal);
  }

  add(bytes: number): void {
    this.check();
    this.#done += bytes;
    this.#options.progress?.(this.#done, this.#total);
  }
}

// training_state.json: what a training checkpoint says of itself, and the proof that its folder is whole. It is written
// last, names every other file with its size, and has checksums of every tensor and of itself. No tensors.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { CheckpointError, ConfigError, UnsupportedError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { statIfPresent } from "../../formats/files/files.ts";
import { readJsonObject } from "../../formats/files/json-files.ts";

export const RECORD_FILE = "training_state.json";
const FORMAT = "spillway-training-state-checked";
const VERSION = 1;
/** What is saved without checksums was called this. */
const UNCHECKED = "spillway-training-state";
/** The only names of tensor files, so that a record never points outside its folder. */
const TENSOR_FILE = /^state-\d{5}-of-\d{5}\.safetensors$/;

export interface StateRecord {
  /** Optimizer steps done. */
  readonly step: number;
  /** Loss on the validation data; undefined where it was not measured or was not finite. */
  readonly eval_loss: number | undefined;
  /** The caller's own: data cursor, options, whatever JSON holds. */
  readonly meta: Readonly<Record<string, unknown>>;
  /** Tensor files in the folder, with their sizes in bytes. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** CRC-32 of each tensor's bytes, by its name. */
  readonly checksums: Readonly<Record<string, number>>;
}

/** Of a record without its own checksum. */
function digestOf(record: Readonly<Record<string, unknown>>): string {
  return createHash("sha256").update(JSON.stringify(record)).digest("hex");
}

/** Bytes of a record of `tensors` tensors, at most, before their checksums are known. */
export function recordBound(record: StateRecord, tensors: Iterable<string>): number {
  const checksums = Object.fromEntries(Array.from(tensors, (name) => [name, 0xffffffff]));
  return Buffer.byteLength(recordText({ ...record, checksums }));
}

export function tensorFileName(index: number, count: number): string {
  const pad = (n: number) => String(n).padStart(5, "0");
  return `state-${pad(index + 1)}-of-${pad(count)}.safetensors`;
}

/**
 * The text of training_state.json. Throws ConfigError for a step that is not a count and for anything in `meta` that would
 * not come back from JSON as it went in.
 */
export function recordText({ step, eval_loss, meta, files, checksums }: StateRecord): string {
  if (!isCount(step)) throw new ConfigError(`step is ${step}, a checkpoint needs a whole number from 0 on`);
  // A loss that has diverged is no reason to refuse the state of a long run: it only never is the best one.
  const loss = eval_loss !== undefined && Number.isFinite(eval_loss) ? { eval_loss } : {};
  const record = { format: FORMAT, version: VERSION, step, ...loss, files, checksums, meta };
  const seen: object[] = [];
  const replacer = function (this: unknown, key: string, value: unknown): unknown {
    const kind = typeof value;
    if ((kind === "number" && !Number.isFinite(value)) || ["bigint", "function", "symbol"].includes(kind)) {
      throw new ConfigError(`meta cannot be saved: "${key}" is ${String(value)}, which JSON does not hold`);
    }
    // Without this a circle ends in a RangeError or a TypeError, depending on where it closes.
    while (seen.length > 0 && seen.at(-1) !== this) seen.pop();
    if (typeof value === "object" && value !== null) {
      if (seen.includes(value)) throw new ConfigError(`meta cannot be saved: "${key}" holds itself`);
      seen.push(value);
    }
    return value;
  };
  const plain = JSON.parse(JSON.stringify(record, replacer)) as Record<string, unknown>;
  return `${JSON.stringify({ ...plain, checksum: digestOf(plain) }, null, 2)}\n`;
}

/**
 * The record of the checkpoint in `folder`, once every file it names is there in full length.
 * Throws CheckpointError for a folder that is no whole checkpoint, UnsupportedError for one of a later version, IoError.
 */
export async function readRecord(folder: string): Promise<StateRecord> {
  const path = join(folder, RECORD_FILE);
  const record = parseRecord(await readJsonObject(path), path);
  for (const { name, bytes } of record.files) {
    const file = join(folder, name);
    const stats = await statIfPresent(file);
    if (!stats?.isFile()) throw new CheckpointError(`is missing, ${RECORD_FILE} names it`, { file });
    if (stats.size !== bytes) {
      throw new CheckpointError(
        `is ${stats.size} bytes, ${RECORD_FILE} says ${bytes}: the checkpoint is damaged; resume from another`,
        { file },
      );
    }
  }
  return record;
}

function parseRecord(value: Record<string, unknown>, path: string): StateRecord {
  const bad = (problem: string) => new CheckpointError(problem, { file: path });
  const { checksum, ...rest } = value;
  const { format, version, step, eval_loss, files, checksums, meta } = rest;
  if (format === UNCHECKED) {
    throw new UnsupportedError(
      `${path}: format is "${UNCHECKED}", this reads "${FORMAT}": it was saved by an earlier spillway, which kept no ` +
        "checksums: go on with that one, or start anew in another folder",
    );
  }
  if (format !== FORMAT) throw bad(`format is ${shown(format)}, expected "${FORMAT}"`);
  if (version !== VERSION) {
    throw new UnsupportedError(
      `${path}: version is ${shown(version)}, this reads ${VERSION}: update spillway, or resume from another`,
    );
  }
  if (!isCount(step)) throw bad(`step is ${shown(step)}, not a count`);
  if (eval_loss !== undefined && typeof eval_loss !== "number") throw bad("eval_loss is not a number");
  if (!isObject(meta)) throw bad("meta is not an object");
  if (!Array.isArray(files)) throw bad("files is not a list");
  const names = new Set<string>();
  const parsed = files.map((file: unknown) => {
    if (!isObject(file) || typeof file.name !== "string" || !isCount(file.bytes)) {
      throw bad(`files holds ${shown(file)}, expected a name and a number of bytes`);
    }
    if (!TENSOR_FILE.test(file.name)) throw bad(`files names ${shown(file.name)}, not a tensor file`);
    if (names.has(file.name)) throw bad(`files names ${file.name} twice`);
    names.add(file.name);
    return { name: file.name, bytes: file.bytes };
  });
  if (!isObject(checksums) || !Object.values(checksums).every(isCount))
    throw bad("checksums are not numbers");
  if (checksum !== digestOf(rest))
    throw bad("does not have the checksum it was written with: it is damaged; resume from another");
  return { step, eval_loss, meta, files: parsed, checksums: checksums as Record<string, number> };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

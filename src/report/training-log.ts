// The numbers of a training run on disk: JSON Lines, one object per optimizer step, appended and never rewritten but
// to take back steps that a resumed run does again. Pictures and words made of them are in training-report.ts.

import type { Stats } from "node:fs";
import { constants, type FileHandle, mkdir, open, realpath, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { ConfigError, DisposedError, IoError, SpillwayError } from "../base/errors.ts";
import { systemCode } from "../base/files/system-code.ts";
import { parseJson } from "../base/json.ts";
import { replaceFile } from "../formats/files/staged-file.ts";

/** One optimizer step. A number that is not finite is null in the file and NaN when it is read back. */
export interface TrainingRecord {
  /** Counts from 1; rises from line to line. */
  readonly step: number;
  /** Passes over the data so far; a fraction inside a pass. */
  readonly epoch: number;
  /** Mean over the step's target tokens, nats. */
  readonly loss: number;
  /** On held-out data, after the step; absent where none was measured. */
  readonly eval_loss?: number;
  /** L2, over all gradients, before clipping. */
  readonly grad_norm: number;
  readonly learning_rate: number;
  /** Trained on so far. */
  readonly tokens: number;
  readonly tokens_per_second: number;
  /** Of this step. */
  readonly seconds: number;
  /** Since the run began, seconds. */
  readonly elapsed: number;
  /** The gradients were not finite and the weights were left as they were. */
  readonly skipped?: boolean;
  /** The run went on before this step, from a checkpoint of that one; 0: it had to begin anew. */
  readonly resumed_from?: number;
  /** Share of the step's time that was spent waiting for each, 0 to 1. */
  readonly stalled: { readonly disk: number; readonly copy: number; readonly optimizer: number };
  /** From and to disk in this step. */
  readonly read_bytes: number;
  readonly written_bytes: number;
}

/** How every line begins: tells the torn end of a log from a file that is something else. */
const LINE_START = '{"step":';
const CHUNK = 2 ** 18;
/** Bytes. A record has some 400; the rest is for zeros that a power cut can leave at the end of a file. */
const MAX_LINE = 2 ** 22;

/** A JSONL file of {@link TrainingRecord}s that is being written. */
export class TrainingLog {
  readonly #file: AppendFile;
  #lastStep: number;

  private constructor(file: AppendFile, lastStep: number) {
    this.#file = file;
    this.#lastStep = lastStep;
  }

  /**
   * Opens `path` for appending and makes it and its folder if need be. A last line that a crash left torn is removed.
   * With `resume_step`, lines of later steps are dropped first: those steps will be taken again. Throws ConfigError
   * where the file holds steps and no `resume_step` says what is to become of them, IoError where it is no such log or
   * the system refuses.
   */
  static async open(path: string, options: { resume_step?: number | undefined } = {}): Promise<TrainingLog> {
    const { resume_step: resumeStep } = options;
    if (resumeStep !== undefined && !isStep(resumeStep)) {
      throw new ConfigError(`resume_step: ${resumeStep} is not a step; write an integer from 0 up`);
    }
    await mkdir(dirname(path), { recursive: true }).catch((error: unknown) => {
      throw new IoError("the folder for it could not be made", path, { cause: error });
    });
    const found = await survey(path, resumeStep ?? Number.POSITIVE_INFINITY);
    if (found && resumeStep === undefined && found.kept > 0) {
      throw new ConfigError(
        `${path} holds the log of an earlier run up to step ${found.lastStep}: resume that run, or name another file`,
      );
    }
    if (found && !found.whole) await keepStart(await realpath(path), found.kept);
    return new TrainingLog(await AppendFile.open(path), found?.lastStep ?? -1);
  }

  /** Appends one line. Throws ConfigError for a step that does not come after the last, IoError, DisposedError. */
  async append(record: TrainingRecord): Promise<void> {
    const previous = this.#lastStep;
    if (!isStep(record.step) || record.step <= previous) {
      throw new ConfigError(
        `step ${record.step} cannot be logged after step ${previous}; open the log with resume_step to go back`,
      );
    }
    this.#lastStep = record.step;
    try {
      await this.#file.append(Buffer.from(recordLine(record)));
    } catch (error) {
      // What could not be written may be tried again.
      if (this.#lastStep === record.step) this.#lastStep = previous;
      throw error;
    }
  }

  /** Waits for what was appended, flushes it to the device and closes the file. Safe to call twice. */
  close(): Promise<void> {
    return this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The records of a log. A torn last line is left out, the file stays as it is. Throws IoError. */
export async function readTrainingLog(path: string): Promise<TrainingRecord[]> {
  const records: TrainingRecord[] = [];
  for await (const { record } of readRecords(path)) records.push(record);
  return records;
}

/** What is in a log: the bytes up to the last step that stays, and whether the file is exactly that. */
interface Survey {
  readonly kept: number;
  readonly lastStep: number;
  readonly whole: boolean;
}

async function survey(path: string, lastKept: number): Promise<Survey | undefined> {
  let status: Stats;
  try {
    status = await stat(path);
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    throw readFailure(error, path);
  }
  let kept = 0;
  let lastStep = -1;
  let ended = true;
  for await (const line of readRecords(path)) {
    if (line.record.step > lastKept) break;
    ({ end: kept, ended } = line);
    lastStep = line.record.step;
  }
  return { kept, lastStep, whole: ended && kept === status.size };
}

/** Leaves the first `bytes` of a file, as whole lines. The file changes all at once or not at all. */
async function keepStart(path: string, bytes: number): Promise<void> {
  const source = await open(path, "r");
  try {
    await replaceFile(path, bytes + 1, async (sink) => {
      const chunk = Buffer.allocUnsafe(CHUNK);
      let last = 0x0a;
      while (sink.position < bytes) {
        const wanted = Math.min(CHUNK, bytes - sink.position);
        const { bytesRead } = await source.read(chunk, 0, wanted, sink.position);
        if (bytesRead === 0) throw new IoError("became shorter while it was read", path);
        last = chunk[bytesRead - 1]!;
        await sink.append(chunk.subarray(0, bytesRead));
      }
      if (last !== 0x0a) await sink.append(Buffer.from("\n"));
    });
  } finally {
    await source.close();
  }
}

interface Line {
  readonly bytes: Buffer;
  /** Byte after the line and its newline. */
  readonly end: number;
  /** A newline stands at its end. */
  readonly ended: boolean;
}

/** The file's records with where each ends. A last line that is the start of a record is left out. */
async function* readRecords(path: string): AsyncGenerator<Line & { record: TrainingRecord }> {
  let last = -1;
  let number = 0;
  let torn = 0;
  for await (const line of readLines(path)) {
    number++;
    if (torn > 0) throw notALog(path, torn, "is not a training record");
    const record = parseRecord(line.bytes.toString());
    if (!record) {
      if (!isTorn(line.bytes.toString())) throw notALog(path, number, "is not a training record");
      torn = number;
    } else if (record.step <= last) {
      throw notALog(path, number, `has step ${record.step} after step ${last}`);
    } else {
      last = record.step;
      yield { ...line, record };
    }
  }
}

async function* readLines(path: string): AsyncGenerator<Line> {
  let handle: FileHandle | undefined;
  try {
    // A pipe without a writer would keep open() waiting for ever.
    handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    if (!(await handle.stat()).isFile()) throw new IoError("is not a regular file", path);
    let rest = Buffer.alloc(0);
    for (let position = 0; ; ) {
      const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(CHUNK), 0, CHUNK, position);
      const start = position - rest.length;
      position += bytesRead;
      const filled = Buffer.concat([rest, buffer.subarray(0, bytesRead)]);
      let from = 0;
      for (let at = filled.indexOf(0x0a); at !== -1; at = filled.indexOf(0x0a, from)) {
        yield { bytes: filled.subarray(from, at), end: start + at + 1, ended: true };
        from = at + 1;
      }
      rest = filled.subarray(from);
      if (rest.length > MAX_LINE) throw new IoError(`has a line of more than ${MAX_LINE} bytes`, path);
      if (bytesRead > 0) continue;
      if (rest.length > 0) yield { bytes: rest, end: position, ended: false };
      return;
    }
  } catch (error) {
    throw readFailure(error, path);
  } finally {
    await handle?.close();
  }
}

function readFailure(error: unknown, path: string): unknown {
  if (error instanceof SpillwayError || systemCode(error) === undefined) return error;
  return new IoError(`could not be read (${(error as Error).message})`, path, { cause: error });
}

function notALog(path: string, line: number, problem: string): IoError {
  return new IoError(`line ${line} ${problem}: move the file away, or name another for the log`, path);
}

/** The start of a record, then zeros where the file grew before its bytes were written. */
function isTorn(text: string): boolean {
  const written = text.replace(/\0+$/, "");
  return isJson(written) ? false : written.startsWith(LINE_START) || LINE_START.startsWith(written);
}

function isJson(text: string): boolean {
  try {
    parseJson(text);
    return true;
  } catch {
    return false;
  }
}

function isStep(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function recordLine(r: TrainingRecord): string {
  const { disk, copy, optimizer } = r.stalled;
  const ordered: TrainingRecord = {
    step: r.step,
    epoch: r.epoch,
    loss: r.loss,
    ...(r.eval_loss === undefined ? {} : { eval_loss: r.eval_loss }),
    grad_norm: r.grad_norm,
    learning_rate: r.learning_rate,
    tokens: r.tokens,
    tokens_per_second: r.tokens_per_second,
    seconds: r.seconds,
    elapsed: r.elapsed,
    ...(r.skipped === undefined ? {} : { skipped: r.skipped }),
    ...(r.resumed_from === undefined ? {} : { resumed_from: r.resumed_from }),
    stalled: { disk, copy, optimizer },
    read_bytes: r.read_bytes,
    written_bytes: r.written_bytes,
  };
  return `${JSON.stringify(ordered)}\n`;
}

/** The record of a line, or undefined. Members that are not known are passed over. */
function parseRecord(line: string): TrainingRecord | undefined {
  let parsed: unknown;
  try {
    parsed = parseJson(line);
  } catch {
    return undefined;
  }
  const members = membersOf(parsed);
  const stalls = membersOf(members?.stalled);
  if (!members || !stalls || !isStep(members.step)) return undefined;
  const missing: string[] = [];
  const number = (from: Record<string, unknown>, name: string): number => {
    const value = from[name];
    if (typeof value === "number") return value;
    if (value !== null) missing.push(name);
    return Number.NaN;
  };
  const record: TrainingRecord = {
    step: members.step,
    epoch: number(members, "epoch"),
    loss: number(members, "loss"),
    ...("eval_loss" in members ? { eval_loss: number(members, "eval_loss") } : {}),
    grad_norm: number(members, "grad_norm"),
    learning_rate: number(members, "learning_rate"),
    tokens: number(members, "tokens"),
    tokens_per_second: number(members, "tokens_per_second"),
    seconds: number(members, "seconds"),
    elapsed: number(members, "elapsed"),
    ...(typeof members.skipped === "boolean" ? { skipped: members.skipped } : {}),
    ...(isStep(members.resumed_from) ? { resumed_from: members.resumed_from } : {}),
    stalled: {
      disk: number(stalls, "disk"),
      copy: number(stalls, "copy"),
      optimizer: number(stalls, "optimizer"),
    },
    read_bytes: number(members, "read_bytes"),
    written_bytes: number(members, "written_bytes"),
  };
  return missing.length === 0 ? record : undefined;
}

function membersOf(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

/** A file that only grows, by whole pieces: a piece that could not be written leaves nothing of itself behind. */
export class AppendFile {
  readonly path: string;
  readonly #handle: FileHandle;
  #size: number;
  #torn = false;
  #pending: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(path: string, handle: FileHandle, size: number) {
    this.path = path;
    this.#handle = handle;
    this.#size = size;
  }

  /** With `create_new`, a file that is there already is an error whose cause has the code EEXIST. Throws IoError. */
  static async open(path: string, options: { create_new?: boolean } = {}): Promise<AppendFile> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, options.create_new ? "ax" : "a");
      return new AppendFile(path, handle, (await handle.stat()).size);
    } catch (error) {
      await handle?.close();
      throw writeFailure(error, path);
    }
  }

  /** Pieces reach the file in the order of the calls. Throws IoError, DisposedError. */
  async append(bytes: Uint8Array): Promise<void> {
    if (this.#closing) throw new DisposedError(this.path);
    const written = this.#pending.then(() => this.#write(bytes));
    this.#pending = written.catch(() => undefined);
    await written;
  }

  /** Waits for what was appended, flushes it to the device and closes the file. Safe to call twice. */
  close(): Promise<void> {
    this.#closing ??= this.#pending.then(async () => {
      try {
        await this.#handle.datasync();
      } catch (error) {
        throw writeFailure(error, this.path);
      } finally {
        await this.#handle.close();
      }
    });
    return this.#closing;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      await this.#repair();
      for (let done = 0; done < bytes.length; ) {
        done += (await this.#handle.write(bytes, done, bytes.length - done, null)).bytesWritten;
        this.#torn = done > 0;
      }
      this.#torn = false;
      this.#size += bytes.length;
    } catch (error) {
      // Tried again before the next piece; what is thrown is why this one failed.
      await this.#repair().catch(() => undefined);
      throw writeFailure(error, this.path);
    }
  }

  async #repair(): Promise<void> {
    if (!this.#torn) return;
    await this.#handle.truncate(this.#size);
    this.#torn = false;
  }
}

function writeFailure(error: unknown, path: string): IoError {
  const detail = error instanceof Error ? error.message : String(error);
  const full = ["ENOSPC", "EDQUOT"].includes(systemCode(error) ?? "");
  const problem = full ? "no space left on the device: free some" : `could not be written (${detail})`;
  return new IoError(problem, path, { cause: error });
}

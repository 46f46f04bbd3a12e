// A TensorBoard event file with the scalars of a run: TFRecord framing around protobuf messages, both written by hand.
// Writes only, and only scalars. Formats: tensorflow/core/lib/io/record_writer.h, core/util/event.proto, summary.proto.

import { mkdir } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { ConfigError, IoError } from "../base/errors.ts";
import { systemCode } from "../base/files/system-code.ts";
import { AppendFile, type TrainingRecord } from "./training-log.ts";

/** Protobuf field numbers. */
const EVENT = { wall_time: 1, step: 2, file_version: 3, summary: 5, session_log: 7 } as const;
const SUMMARY = { value: 1 } as const;
const VALUE = { tag: 1, simple_value: 2 } as const;
const SESSION_LOG = { status: 1 } as const;
const SESSION_START = 1;

/** Protobuf wire types. */
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** Names of files tried before giving up; each has a second of its own. */
const ATTEMPTS = 100;

/** One event file that is being written. */
export class TensorBoardLog {
  readonly #file: AppendFile;

  private constructor(file: AppendFile) {
    this.#file = file;
  }

  /**
   * Starts a new event file in `dir`, which is made if need be. With `purge_step` (as in torch's SummaryWriter),
   * TensorBoard forgets what earlier files of the folder say of this step and later ones. Throws ConfigError, IoError.
   */
  static async open(dir: string, options: { purge_step?: number | undefined } = {}): Promise<TensorBoardLog> {
    const now = Date.now() / 1000;
    const { purge_step: purgeStep } = options;
    const head = [frame(message(fixed64(EVENT.wall_time, now), text(EVENT.file_version, "brain.Event:2")))];
    if (purgeStep !== undefined) {
      const start = message(varint(SESSION_LOG.status, SESSION_START));
      const purge = [varint(EVENT.step, checkedStep(purgeStep)), bytes(EVENT.session_log, start)];
      head.push(frame(message(fixed64(EVENT.wall_time, now), ...purge)));
    }
    await mkdir(dir, { recursive: true }).catch((error: unknown) => {
      throw new IoError("the folder could not be made", dir, { cause: error });
    });
    const file = await openNew(dir, Math.floor(now));
    try {
      await file.append(Buffer.concat(head));
    } catch (error) {
      await file.close().catch(() => undefined);
      throw error;
    }
    return new TensorBoardLog(file);
  }

  get path(): string {
    return this.#file.path;
  }

  /**
   * Appends values of one step, by tag ("train/loss"). They are stored as float32. `wallTimeSeconds`: since 1970.
   * Throws ConfigError for a step that is no integer from 0 up, IoError, DisposedError.
   */
  async scalars(
    step: number,
    wallTimeSeconds: number,
    values: Readonly<Record<string, number>>,
  ): Promise<void> {
    const summary = Object.entries(values).map(([tag, value]) =>
      bytes(SUMMARY.value, message(text(VALUE.tag, tag), fixed32(VALUE.simple_value, value))),
    );
    const event = message(
      fixed64(EVENT.wall_time, wallTimeSeconds),
      varint(EVENT.step, checkedStep(step)),
      bytes(EVENT.summary, message(...summary)),
    );
    await this.#file.append(frame(event));
  }

  /** Waits for what was appended, flushes it to the device and closes the file. Safe to call twice. */
  close(): Promise<void> {
    return this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What TensorBoard shows of a step, by tag. Numbers that are not finite, as a skipped step has them, are left out. */
export function trainingScalars(record: TrainingRecord): Record<string, number> {
  const values: Record<string, number | undefined> = {
    "train/loss": record.loss,
    "train/grad_norm": record.grad_norm,
    "train/learning_rate": record.learning_rate,
    "train/epoch": record.epoch,
    "train/tokens": record.tokens,
    "eval/loss": record.eval_loss,
    "speed/tokens_per_second": record.tokens_per_second,
    "speed/step_seconds": record.seconds,
    "stalled/disk": record.stalled.disk,
    "stalled/copy": record.stalled.copy,
    "stalled/optimizer": record.stalled.optimizer,
    "disk/read_bytes": record.read_bytes,
    "disk/written_bytes": record.written_bytes,
  };
  return Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, number] => Number.isFinite(entry[1])),
  );
}

/** TensorBoard reads the files of a folder in the order of their names, so a name that is taken moves on a second. */
async function openNew(dir: string, seconds: number): Promise<AppendFile> {
  const host = hostname().replace(/[^\w.-]/g, "_") || "localhost";
  for (let attempt = 0; ; attempt++) {
    const name = `events.out.tfevents.${seconds + attempt}.${host}.${process.pid}.spillway`;
    try {
      return await AppendFile.open(join(dir, name), { create_new: true });
    } catch (error) {
      const taken = error instanceof IoError && systemCode(error.cause) === "EEXIST";
      if (!taken || attempt + 1 === ATTEMPTS) throw error;
    }
  }
}

function checkedStep(step: number): number {
  if (Number.isSafeInteger(step) && step >= 0) return step;
  throw new ConfigError(`${step} is not a step; write an integer from 0 up`);
}

/** A TFRecord: length (8 bytes), masked CRC of the length, data, masked CRC of the data. Little-endian. */
function frame(data: Buffer): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(data.length), 0);
  head.writeUInt32LE(maskedCrc32c(head.subarray(0, 8)), 8);
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(maskedCrc32c(data), 0);
  return Buffer.concat([head, data, tail]);
}

function message(...fields: readonly Buffer[]): Buffer {
  return Buffer.concat(fields);
}

function varint(field: number, value: number): Buffer {
  return Buffer.concat([key(field, VARINT), base128(value)]);
}

function fixed64(field: number, value: number): Buffer {
  const double = Buffer.alloc(8);
  double.writeDoubleLE(value);
  return Buffer.concat([key(field, FIXED64), double]);
}

function fixed32(field: number, value: number): Buffer {
  const single = Buffer.alloc(4);
  single.writeFloatLE(value);
  return Buffer.concat([key(field, FIXED32), single]);
}

function bytes(field: number, value: Buffer): Buffer {
  return Buffer.concat([key(field, BYTES), base128(value.length), value]);
}

function text(field: number, value: string): Buffer {
  return bytes(field, Buffer.from(value));
}

function key(field: number, wireType: number): Buffer {
  return base128(field * 8 + wireType);
}

/** Seven bits per byte, the lowest first. By division: steps may have more than the 32 bits of JavaScript's shifts. */
function base128(value: number): Buffer {
  const out: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) out.push((rest % 128) + 128);
  return Buffer.from([...out, rest]);
}

/** CRC-32C (Castagnoli), reflected polynomial 0x82f63b78. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C of `data`, unsigned. RFC 3720, appendix B.4 has examples. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Rotated and offset: a CRC over data that holds CRCs would be weak. */
function maskedCrc32c(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

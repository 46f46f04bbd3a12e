import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError, DisposedError, IoError } from "../base/errors.ts";
import { openHandles, rejection, temporaryFolder } from "../formats/testing.ts";
import { crc32c, TensorBoardLog, trainingScalars } from "./tensorboard.ts";

/** One CRC bit at a time, straight from the definition: shares nothing with the table in the source. */
function slowCrc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    for (let bit = 0; bit < 8; bit++) {
      const out = (crc ^ (byte >>> bit)) & 1;
      crc = (crc >>> 1) ^ (out ? 0x82f63b78 : 0);
    }
  }
  return ~crc >>> 0;
}

/** The payloads of a TFRecord file; throws where a CRC does not hold or bytes are left over. */
function tfRecords(file: Buffer): Buffer[] {
  const unmask = (masked: number) => {
    const rotated = (masked - 0xa282ead8) >>> 0;
    return ((rotated << 15) | (rotated >>> 17)) >>> 0;
  };
  const records: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(unmask(file.readUInt32LE(at + 8))).toBe(slowCrc32c(file.subarray(at, at + 8)));
    expect(unmask(file.readUInt32LE(at + 12 + length))).toBe(slowCrc32c(data));
    records.push(data);
    at += 16 + length;
  }
  return records;
}

/** A protobuf message as [field number, value]: bigint for varints, number for floats, bytes for the rest. */
function fields(data: Buffer): [number, bigint | number | Buffer][] {
  const found: [number, bigint | number | Buffer][] = [];
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const key = Number(varint());
    const field = key >>> 3;
    if ((key & 7) === 0) found.push([field, varint()]);
    else if ((key & 7) === 1) {
      found.push([field, data.readDoubleLE(at)]);
      at += 8;
    } else if ((key & 7) === 5) {
      found.push([field, data.readFloatLE(at)]);
      at += 4;
    } else {
      const length = Number(varint());
      found.push([field, data.subarray(at, at + length)]);
      at += length;
    }
  }
  return found;
}

/** tag -> value of an event's summary. */
function scalarsOf(event: Buffer): Record<string, number> {
  const summary = new Map(fields(event)).get(5) as Buffer;
  return Object.fromEntries(
    fields(summary).map(([, value]) => {
      const members = new Map(fields(value as Buffer));
      return [String(members.get(1)), members.get(2) as number];
    }),
  );
}

const read = (log: TensorBoardLog) => tfRecords(readFileSync(log.path));

// "123456789" is the check value of the CRC catalogues; the others are of RFC 3720, appendix B.4.
test.each([
  ["123456789", Buffer.from("123456789"), 0xe3069283],
  ["nothing", Buffer.alloc(0), 0],
  ["32 zeros", Buffer.alloc(32), 0x8a9136aa],
  ["32 ones", Buffer.alloc(32, 0xff), 0x62a8ab43],
  ["0 to 31", Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e],
])("CRC-32C of %s", (_, data, expected) => {
  expect(crc32c(data)).toBe(expected);
});

describe("an event file", () => {
  test("opens with its version, then has an event per step", async () => {
    const dir = join(temporaryFolder(), "runs/one");
    const log = await TensorBoardLog.open(dir);
    await log.scalars(1, 1700000000.25, { "train/loss": 1.5, "train/grad_norm": -0.25 });
    await log.scalars(2 ** 40 + 300, 1700000001, { "verlust/größe": Number.NaN });
    await log.close();
    const [version, first, second, ...rest] = read(log);
    expect(rest).toEqual([]);
    expect(new Map(fields(version!)).get(3)?.toString()).toBe("brain.Event:2");
    expect(fields(first!).slice(0, 2)).toEqual([
      [1, 1700000000.25],
      [2, 1n],
    ]);
    expect(scalarsOf(first!)).toEqual({ "train/loss": 1.5, "train/grad_norm": -0.25 });
    expect(new Map(fields(second!)).get(2)).toBe(2n ** 40n + 300n);
    expect(scalarsOf(second!)).toEqual({ "verlust/größe": Number.NaN });
  });

  test("has a name that TensorBoard looks for, and each its own", async () => {
    const dir = temporaryFolder();
    const logs = await Promise.all([1, 2, 3].map(() => TensorBoardLog.open(dir)));
    await Promise.all(logs.map((log) => log.close()));
    const names = readdirSync(dir);
    expect(names).toHaveLength(3);
    for (const name of names) {
      expect(name).toMatch(/^events\.out\.tfevents\.\d{10}\.[\w.-]+\.spillway$/);
      expect(name).toContain(`.${hostname()}.${process.pid}.`);
    }
  });

  test("of a resumed run starts a session at the first step that is taken again", async () => {
    const log = await TensorBoardLog.open(temporaryFolder(), { purge_step: 41 });
    await log.close();
    const purge = new Map(fields(read(log)[1]!));
    expect(purge.get(2)).toBe(41n);
    expect(fields(purge.get(7) as Buffer)).toEqual([[1, 1n]]); // SessionLog.START
  });

  test("has events in the order of the calls", async () => {
    const log = await TensorBoardLog.open(temporaryFolder());
    const written = Array.from({ length: 300 }, (_, step) => log.scalars(step, 0, { x: step }));
    await log.close();
    await Promise.all(written);
    const values = read(log)
      .slice(1)
      .map((event) => scalarsOf(event).x);
    expect(values).toEqual(Array.from({ length: 300 }, (_, step) => step));
  });

  test("takes no step that is none, and nothing after it was closed", async () => {
    const dir = temporaryFolder();
    const log = await TensorBoardLog.open(dir);
    for (const step of [-1, 0.5, Number.NaN, 2 ** 53]) {
      expect(await rejection(log.scalars(step, 0, {}))).toBeInstanceOf(ConfigError);
    }
    await log.close();
    await log.close();
    expect(await rejection(log.scalars(1, 0, {}))).toBeInstanceOf(DisposedError);
    expect(await rejection(TensorBoardLog.open(dir, { purge_step: -1 }))).toBeInstanceOf(ConfigError);
    expect(openHandles(dir) ?? 0).toBe(0);
  });

  test("cannot lie in a file", async () => {
    const dir = temporaryFolder();
    mkdirSync(join(dir, "runs"));
    writeFileSync(join(dir, "runs/file"), "");
    expect(await rejection(TensorBoardLog.open(join(dir, "runs/file")))).toBeInstanceOf(IoError);
  });
});

test("a step's scalars are its numbers; those it does not have are left out", () => {
  const record = {
    step: 3,
    epoch: 0.5,
    loss: Number.NaN,
    grad_norm: Number.POSITIVE_INFINITY,
    learning_rate: 1e-3,
    tokens: 768,
    tokens_per_second: 100,
    seconds: 2.56,
    elapsed: 8,
    skipped: true,
    stalled: { disk: 0.5, copy: 0.25, optimizer: 0 },
    read_bytes: 10,
    written_bytes: 0,
  };
  const scalars = trainingScalars(record);
  expect(scalars).toMatchObject({
    "train/learning_rate": 1e-3,
    "stalled/disk": 0.5,
    "disk/written_bytes": 0,
  });
  expect(Object.keys(scalars).filter((tag) => tag.endsWith("loss") || tag.endsWith("norm"))).toEqual([]);
  expect(trainingScalars({ ...record, loss: 2, eval_loss: 3 })).toMatchObject({
    "train/loss": 2,
    "eval/loss": 3,
  });
});

import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError, DisposedError, IoError } from "../base/errors.ts";
import { testUnless } from "../base/testing-unproven.ts";
import { openHandles, rejection, temporaryFolder } from "../formats/testing.ts";
import { AppendFile, readTrainingLog, TrainingLog, type TrainingRecord } from "./training-log.ts";

function record(step: number, more: Partial<TrainingRecord> = {}): TrainingRecord {
  return {
    step,
    epoch: step / 8,
    loss: 4 / step,
    grad_norm: 1.5,
    learning_rate: 1e-3,
    tokens: 256 * step,
    tokens_per_second: 128,
    seconds: 2,
    elapsed: 2 * step,
    stalled: { disk: 0.25, copy: 0.125, optimizer: 0 },
    read_bytes: 4096,
    written_bytes: 512,
    ...more,
  };
}

/** A log of steps 1 to `count`, closed. */
async function logOf(count: number, path = join(temporaryFolder(), "log.jsonl")): Promise<string> {
  await using log = await TrainingLog.open(path);
  for (let step = 1; step <= count; step++) await log.append(record(step));
  return path;
}

const steps = async (path: string) => (await readTrainingLog(path)).map((r) => r.step);

describe("a log", () => {
  test("is a JSON object per line, which reads back as it was", async () => {
    const path = join(temporaryFolder(), "runs/one/log.jsonl");
    const records = [record(1), record(2, { eval_loss: 2.5 }), record(5, { skipped: true })];
    const log = await TrainingLog.open(path);
    for (const r of records) await log.append(r);
    await log.close();
    const lines = readFileSync(path, "utf8").split("\n");
    expect(lines.pop()).toBe("");
    expect(lines.map((line) => JSON.parse(line))).toEqual(records);
    expect(await readTrainingLog(path)).toEqual(records);
  });

  test("keeps lines in the order of the calls, awaited or not", async () => {
    const path = join(temporaryFolder(), "log.jsonl");
    const log = await TrainingLog.open(path);
    const written = Array.from({ length: 200 }, (_, i) => log.append(record(i + 1)));
    await log.close();
    await Promise.all(written);
    expect(await steps(path)).toEqual(Array.from({ length: 200 }, (_, i) => i + 1));
  });

  test("has null for what is not finite, and NaN when it is read", async () => {
    const path = join(temporaryFolder(), "log.jsonl");
    const log = await TrainingLog.open(path);
    await log.append(record(1, { loss: Number.NaN, grad_norm: Number.POSITIVE_INFINITY }));
    await log.close();
    expect(readFileSync(path, "utf8")).toContain('"loss":null');
    expect((await readTrainingLog(path))[0]).toMatchObject({ loss: Number.NaN, grad_norm: Number.NaN });
  });

  test("is longer than one read", async () => {
    const path = join(temporaryFolder(), "log.jsonl");
    const line = (step: number) => `${JSON.stringify(record(step))}\n`;
    writeFileSync(path, Array.from({ length: 3000 }, (_, i) => line(i)).join(""));
    expect(statSync(path).size).toBeGreaterThan(2 * 2 ** 18);
    expect(await steps(path)).toEqual(Array.from({ length: 3000 }, (_, i) => i));
    await (await TrainingLog.open(path, { resume_step: 1900 })).close();
    expect(await steps(path)).toEqual(Array.from({ length: 1901 }, (_, i) => i));
  });

  test("does not take a step twice, and not after it was closed", async () => {
    const log = await TrainingLog.open(join(temporaryFolder(), "log.jsonl"));
    await log.append(record(3));
    expect(await rejection(log.append(record(3)))).toBeInstanceOf(ConfigError);
    expect(await rejection(log.append(record(2.5)))).toBeInstanceOf(ConfigError);
    await log.close();
    await log.close();
    expect(await rejection(log.append(record(4)))).toBeInstanceOf(DisposedError);
  });
});

describe("resuming", () => {
  test("drops the steps that will be taken again, then goes on", async () => {
    const path = await logOf(5);
    const log = await TrainingLog.open(path, { resume_step: 3 });
    await log.append(record(4, { loss: 9 }));
    await log.close();
    expect((await readTrainingLog(path)).map((r) => [r.step, r.loss])).toEqual([
      [1, 4],
      [2, 2],
      [3, 4 / 3],
      [4, 9],
    ]);
  });

  test("from the last step leaves the file as it is", async () => {
    const path = await logOf(3);
    const { ino } = statSync(path);
    await (await TrainingLog.open(path, { resume_step: 3 })).close();
    expect(statSync(path).ino).toBe(ino);
    expect(await steps(path)).toEqual([1, 2, 3]);
  });

  test("from step 0 starts over", async () => {
    const path = await logOf(3);
    await (await TrainingLog.open(path, { resume_step: 0 })).close();
    expect(readFileSync(path, "utf8")).toBe("");
  });

  test("without saying so is refused, and nothing is lost", async () => {
    const path = await logOf(3);
    expect(await rejection(TrainingLog.open(path))).toMatchObject({
      name: "ConfigError",
      message: expect.stringContaining("up to step 3"),
    });
    expect(await steps(path)).toEqual([1, 2, 3]);
    expect(await rejection(TrainingLog.open(path, { resume_step: -1 }))).toBeInstanceOf(ConfigError);
  });
});

describe("after a crash", () => {
  const whole = `${JSON.stringify(record(3))}\n`;

  test("a torn last line is left out of what is read, and removed when the run goes on", async () => {
    for (let length = 0; length < whole.length; length++) {
      const path = await logOf(2);
      appendFileSync(path, whole.slice(0, length));
      // All but the newline is a whole record.
      const expected = length === whole.length - 1 ? [1, 2, 3] : [1, 2];
      expect(await steps(path)).toEqual(expected);
      const log = await TrainingLog.open(path, { resume_step: 3 });
      await log.append(record(4));
      await log.close();
      expect(await steps(path)).toEqual([...expected, 4]);
    }
  });

  test("so are zeros where the file grew before its bytes were written", async () => {
    const path = await logOf(2);
    appendFileSync(path, Buffer.concat([Buffer.from(whole.slice(0, 40)), Buffer.alloc(5000)]));
    await (await TrainingLog.open(path, { resume_step: 2 })).close();
    expect(readFileSync(path, "utf8")).toBe([1, 2].map((s) => `${JSON.stringify(record(s))}\n`).join(""));
  });
});

describe("a file that is no log", () => {
  test.each([
    ["text", "remember the milk"],
    ["other JSON", '{"name":"x"}\n'],
    ["a record without its numbers", '{"step":1}\n'],
    ["a torn line in the middle", `{"step":1,"ep\n${JSON.stringify(record(2))}\n`],
    ["steps that go back", [2, 1].map((s) => `${JSON.stringify(record(s))}\n`).join("")],
    ["an endless line", "0".repeat(2 ** 22 + 1)],
  ])("%s: is refused and left as it was", async (_, content) => {
    const dir = temporaryFolder();
    const path = join(dir, "file");
    writeFileSync(path, content);
    expect(await rejection(TrainingLog.open(path, { resume_step: 9 }))).toBeInstanceOf(IoError);
    expect(await rejection(readTrainingLog(path))).toBeInstanceOf(IoError);
    expect(readFileSync(path, "utf8")).toBe(content);
    expect(openHandles(dir) ?? 0).toBe(0);
  });

  test("nor is a folder, a pipe, a path through a file, or nothing", async () => {
    const dir = temporaryFolder();
    mkdirSync(join(dir, "folder"));
    writeFileSync(join(dir, "file"), "");
    expect(await rejection(TrainingLog.open(join(dir, "folder")))).toBeInstanceOf(IoError);
    expect(await rejection(TrainingLog.open(join(dir, "file/log")))).toBeInstanceOf(IoError);
    expect(await rejection(readTrainingLog(join(dir, "none")))).toBeInstanceOf(IoError);
    if (process.platform !== "win32") {
      execFileSync("mkfifo", [join(dir, "pipe")]);
      expect(await rejection(TrainingLog.open(join(dir, "pipe")))).toBeInstanceOf(IoError);
    }
    expect(openHandles(dir) ?? 0).toBe(0);
  });
});

// The one device that is always full; Linux only.
testUnless(existsSync("/dev/full") ? undefined : "no device that is always full")(
  "a full disk is an IoError that says so, each time",
  async () => {
    const file = await AppendFile.open("/dev/full");
    for (let i = 0; i < 2; i++) {
      const error = await rejection(file.append(Buffer.from("x")));
      expect(error).toBeInstanceOf(IoError);
      expect(String(error)).toContain("no space left");
    }
    await file.close().catch(() => undefined); // a device cannot be flushed
  },
);

import { stripVTControlCharacters } from "node:util";
import { describe, expect, test } from "vitest";
import type { TrainingRecord } from "./training-log.ts";
import {
  formatLearningRate,
  formatLoss,
  formatTokenRate,
  trainingProgressLine,
} from "./training-progress.ts";

const RECORD: TrainingRecord = {
  step: 120,
  epoch: 0.5,
  loss: 2.34567,
  grad_norm: 0.98,
  learning_rate: 3e-4,
  tokens: 120_000,
  tokens_per_second: 1234,
  seconds: 0.821,
  elapsed: 100,
  stalled: { disk: 0.12, copy: 0.034, optimizer: 0.001 },
  read_bytes: 0,
  written_bytes: 0,
};

const line = (columns: number, more: Partial<TrainingRecord> = {}) =>
  trainingProgressLine({ ...RECORD, ...more }, { max_steps: 1000, columns, colour: false });

describe("a line", () => {
  test("has everything where there is room", () => {
    expect(line(200)).toBe(
      "step 120/1000  loss 2.346  grad 0.9800  lr 3e-4  1.2 K tokens/s  12 min 02 s left  waits: disk 12 %, copy 3 %",
    );
    expect(line(200, { eval_loss: 2.5, skipped: true })).toContain("loss 2.346  skipped  eval 2.500  grad");
  });

  test("says what matters most where there is little", () => {
    expect(line(80)).toBe("step 120/1000  loss 2.346  grad 0.9800  1.2 K tokens/s  12 min 02 s left");
    expect(line(60)).toBe("step 120/1000  loss 2.346  1.2 K tokens/s  12 min 02 s left");
    expect(line(27)).toBe("step 120/1000  loss 2.346");
    expect(line(14)).toBe("step 120/1000");
    expect(line(5)).toBe("step");
    expect(line(0)).toBe("");
  });

  test("leaves the last column free at every width, coloured or not", () => {
    for (let columns = 1; columns < 150; columns++) {
      const plain = line(columns, { skipped: true, eval_loss: 2 });
      expect(plain.length).toBeLessThan(columns);
      const coloured = trainingProgressLine(
        { ...RECORD, skipped: true, eval_loss: 2 },
        { max_steps: 1000, columns, colour: true },
      );
      expect(stripVTControlCharacters(coloured)).toBe(plain);
    }
  });

  test("has colours only if asked for them", () => {
    expect(line(200)).toBe(stripVTControlCharacters(line(200)));
    const options = { max_steps: 1000, columns: 200, colour: true };
    expect(trainingProgressLine(RECORD, options)).toContain("\u001b[1mloss 2.346\u001b[22m");
    expect(trainingProgressLine({ ...RECORD, loss: Number.NaN }, options)).toContain("\u001b[31mloss NaN");
  });

  test("says nothing of time left at the end, or where a step's time is not known", () => {
    expect(line(200, { step: 1000 })).not.toContain("left");
    expect(line(200, { seconds: Number.NaN })).not.toContain("left");
  });

  test("takes the time left from a mean over several steps where there is one", () => {
    const options = { max_steps: 1000, columns: 200, colour: false, seconds_per_step: 10 };
    expect(trainingProgressLine(RECORD, options)).toContain("2 h 27 min left");
  });

  test("is silent about waits that are none", () => {
    expect(line(200, { stalled: { disk: 0, copy: 0.004, optimizer: 0 } })).not.toContain("waits");
  });
});

test("numbers are short and keep their size", () => {
  expect([10.8312, 0.01234, 0, 1.5e-7, 123456, Number.POSITIVE_INFINITY].map(formatLoss)).toEqual([
    "10.83",
    "0.01234",
    "0.000",
    "1.50e-7",
    "1.23e+5",
    "Infinity",
  ]);
  expect([3e-4, 2.75e-5, 0, 1].map(formatLearningRate)).toEqual(["3e-4", "2.75e-5", "0", "1e+0"]);
  expect([0.754, 8.5, 123, 45678, 0].map(formatTokenRate)).toEqual([
    "0.75 tokens/s",
    "8.5 tokens/s",
    "123 tokens/s",
    "45.7 K tokens/s",
    "0 tokens/s",
  ]);
});

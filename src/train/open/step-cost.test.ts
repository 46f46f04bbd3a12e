// How room for kept activations is weighed against room for weights, on shapes as they are trained: by what a byte of either
// spares in the part of a step that sets its pace.
import { describe, expect, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { makeCheckpoint } from "../../formats/synthetic.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import type { Plan } from "../../plan/plan.ts";
import { readSkeleton } from "../../runtime/open/skeleton.ts";
import { measureStep } from "./measure-step.ts";
import { trainerSettings } from "./options.ts";
import { trainedParameters } from "./parameters.ts";
import { diskTraffic, type StepWork, stepFlops, stepSeconds } from "./step-cost.ts";

const MIB = 2 ** 20;
const HIDDEN = 512;
const SHAPE = {
  ...{ hidden_size: HIDDEN, intermediate_size: 1408, vocab_size: 1000, num_hidden_layers: 4 },
  ...{ num_attention_heads: 8, num_key_value_heads: 4 },
};

/** Work of a step of so many tokens, and what its stages can keep. */
async function stepOf(length: number) {
  const { path } = await makeCheckpoint(`${temporaryFolder()}/model`, {
    family: "llama",
    dtype: "f32",
    shape: SHAPE,
  });
  const cpu = Device.open(findDevice("cpu"), { threads: 1 });
  try {
    const settings = trainerSettings({});
    const known = { ...(await readSkeleton(path)), device: cpu, cpu, budgets: {} };
    const parameters = trainedParameters(known, settings);
    const shape = { sequences: 1, length };
    const { stages } = measureStep(known, parameters, shape);
    const work: StepWork = {
      ...{ known, parameters, rule: settings.rule, shape, storedInputs: 0, allUpdates: true, sparedFlops: 0 },
      homes: { optimizer: "cpu", gradients: "cpu", activations: "cpu" },
    };
    return { work, keepings: stages.map(({ keeping }) => keeping).filter(({ bytes }) => bytes > 0) };
  } finally {
    await cpu.dispose();
  }
}

/** A plan under which so many bytes of weights are read for every pass. */
const streaming = ({ known }: StepWork, bytes: number) =>
  ({ homes: known.model.units.map(() => "cpu"), streamed: { cpu: 0, disk: bytes } }) as unknown as Plan;

test("a byte kept of an MLP of width h spares h/2 operations, and of attention about as many", async () => {
  const { keepings } = await stepOf(64);
  const [attention, mlp] = keepings.map(({ flops, bytes }) => flops / bytes);
  expect(mlp).toBeCloseTo(HIDDEN / 2, 0);
  expect(attention).toBeGreaterThan(HIDDEN / 4);
  expect(attention).toBeLessThan(HIDDEN);
});

test("all that is computed again is a quarter of a step's arithmetic, less the last product of each stage", async () => {
  const { work, keepings } = await stepOf(64);
  const spared = keepings.reduce((sum, { flops }) => sum + flops, 0);
  const share = spared / stepFlops(work);
  expect(share).toBeGreaterThan(0.12);
  expect(share).toBeLessThan(0.25);
  expect(stepFlops({ ...work, sparedFlops: spared })).toBe(stepFlops(work) - spared);
});

describe("room for what is kept is taken from weights, which are then read", () => {
  test("where arithmetic sets the pace that is faster", async () => {
    const { work, keepings } = await stepOf(512);
    const [kept] = keepings as [(typeof keepings)[number]];
    const before = stepSeconds(work, streaming(work, 0));
    const after = stepSeconds({ ...work, sparedFlops: kept.flops }, streaming(work, kept.bytes));
    expect(after).toBeLessThan(before);
  });

  test("where the disk does it is not", async () => {
    const { work, keepings } = await stepOf(8);
    const [kept] = keepings as [(typeof keepings)[number]];
    const weights = 4096 * MIB; // as of a model whose reading takes far longer than eight tokens
    const before = stepSeconds(work, streaming(work, weights));
    const after = stepSeconds({ ...work, sparedFlops: kept.flops }, streaming(work, weights + kept.bytes));
    expect(after).toBeGreaterThan(before);
  });
});

test("weights that are read count twice in a micro-batch, forward and backward", async () => {
  const { work } = await stepOf(8);
  expect(diskTraffic(work, streaming(work, MIB), 3)).toEqual({ read: 3 * 2 * MIB, written: 0 });
});

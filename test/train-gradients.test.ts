// The first training step of whole models, stage by stage as the trainer does it, held to the reference's loss and to
// each of its gradients by name.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import {
  Evaluation,
  type Given,
  type Inputs,
  onCpu,
  relativeDifference,
  TestGpu,
} from "../src/backend/ggml/gradients/testing.ts";
import type { Graph } from "../src/backend/ggml/ops.ts";
import type { Tensor } from "../src/backend/ggml/tensor.ts";
import { testUnless, whyNoGpu } from "../src/base/testing-unproven.ts";
import { type Checkpoint, openCheckpoint, readConfigJson, readTensor } from "../src/formats/index.ts";
import { modelSpec } from "../src/models/families.ts";
import type { ModelSpec, Stage } from "../src/models/spec.ts";
import { microBatch, type TensorBatch } from "../src/train/step/batch.ts";
import { TrainingAttention } from "../src/train/step/stage/attention.ts";
import { headLoss } from "../src/train/step/stage/loss.ts";
import { stageBackward, stageForward } from "../src/train/step/stage/stage-backward.ts";
import { FIXTURES } from "./golden/golden.ts";

interface Reference {
  readonly spec: ModelSpec;
  readonly weights: Checkpoint;
  readonly trained: Checkpoint;
  readonly batch: TensorBatch;
  readonly loss: number;
  readonly gradNorm: number;
}

async function readReference(name: string): Promise<Reference> {
  const dir = join(FIXTURES, name);
  const { train } = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8")) as {
    train: { batch: number[][]; losses: number[]; grad_norms: number[] };
  };
  const spec = modelSpec(await readConfigJson(dir));
  return {
    spec,
    weights: await openCheckpoint(dir),
    trained: await openCheckpoint(join(dir, "train.safetensors")),
    batch: microBatch({ input_ids: train.batch, labels: train.batch }, spec),
    loss: train.losses[0] as number,
    gradNorm: train.grad_norms[0] as number,
  };
}

async function floats(checkpoint: Checkpoint, name: string): Promise<Float32Array> {
  const bytes = await readTensor(checkpoint, name);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** Computes a graph once. */
type Compute = (
  inputs: Inputs,
  build: (g: Graph, t: Record<string, Tensor>) => Record<string, Tensor>,
) => Promise<Record<string, Float32Array>>;

/** One step of a model that lives in JavaScript's memory: stages' inputs are kept, everything else is computed again. */
class Step {
  readonly #compute: Compute;
  readonly #reference: Reference;
  /** By name in the checkpoint. */
  readonly gradients = new Map<string, Float32Array>();

  constructor(compute: Compute, reference: Reference) {
    this.#compute = compute;
    this.#reference = reference;
  }

  /** The mean loss; `blockTokens` tokens at a time go through the head. */
  async run(blockTokens: number): Promise<number> {
    const { spec, batch } = this.#reference;
    const body = spec.stages.slice(0, -1);
    const inputs: (Float32Array | undefined)[] = [undefined];
    for (const [i, stage] of body.entries()) inputs.push(await this.#forward(stage, inputs[i]));
    const count = batch.targets.length;
    const head = await this.#head(spec.stages.at(-1) as Stage, inputs.pop() as Float32Array, blockTokens);
    let dy = head.x as Float32Array;
    for (const [i, stage] of [...body.entries()].reverse()) dy = await this.#backward(stage, inputs[i], dy);
    return (head.sum?.[0] as number) / count;
  }

  async #forward(stage: Stage, x: Float32Array | undefined): Promise<Float32Array> {
    const { y } = await this.#compute(await this.#inputs(stage, x), (g, t) => ({
      y: stageForward(g, stage, { x: t.x, ids: t.ids, parameters: t }, this.#context(t)),
    }));
    return y as Float32Array;
  }

  async #backward(stage: Stage, x: Float32Array | undefined, dy: Float32Array): Promise<Float32Array> {
    const inputs = { ...(await this.#inputs(stage, x)), dy: this.#hidden(dy) };
    const wanted = { parameters: Object.keys(stage.weights), x: x !== undefined };
    const results = await this.#compute(inputs, (g, t) => {
      const input = { x: t.x, ids: t.ids, parameters: t };
      const gradients = stageBackward(g, stage, input, this.#context(t), t.dy as Tensor, wanted);
      return { ...gradients.parameters, ...(gradients.x && { x: gradients.x }) };
    });
    this.#keep(stage, results);
    return results.x ?? new Float32Array();
  }

  async #head(stage: Stage, hidden: Float32Array, blockTokens: number) {
    const { batch } = this.#reference;
    const count = batch.targets.length;
    const inputs = {
      ...(await this.#inputs(stage, hidden)),
      predicting: { dims: [count], values: batch.predicting },
      targets: { dims: [count], values: batch.targets },
    };
    const wanted = { parameters: Object.keys(stage.weights), x: true };
    const results = await this.#compute(inputs, (g, { x, predicting, targets, ...parameters }) => {
      const input = { hidden: x!, predicting: predicting!, targets: targets!, parameters };
      const { sum, ...gradients } = headLoss(g, stage, input, { blockTokens, gradScale: 1 / count, wanted });
      return { ...gradients.parameters, x: gradients.x!, sum };
    });
    this.#keep(stage, results);
    return results;
  }

  /** Adds to the gradients by name: a tied table has one from the embedding and one from the head. */
  #keep(stage: Stage, results: Readonly<Record<string, Float32Array>>): void {
    for (const [key, { name }] of Object.entries(stage.weights)) {
      const real = this.#reference.spec.tied[name] ?? name;
      const before = this.gradients.get(real);
      const gradient = results[key] as Float32Array;
      this.gradients.set(real, before ? gradient.map((value, i) => value + (before[i] as number)) : gradient);
    }
  }

  async #inputs(stage: Stage, x: Float32Array | undefined): Promise<Record<string, Given>> {
    const { spec, weights, batch } = this.#reference;
    const { length, masks } = batch;
    const inputs: Record<string, Given> = {
      ids: { dims: [batch.ids.length], values: batch.ids },
      positions_: { dims: [batch.ids.length], values: batch.positions },
      mask: { dims: [length, length, 1, masks], values: maskOf(batch) },
      ...(x && { x: this.#hidden(x) }),
    };
    for (const [key, { name, shape }] of Object.entries(stage.weights)) {
      inputs[key] = { dims: shape.toReversed(), values: await floats(weights, spec.tied[name] ?? name) };
    }
    for (const [key, values] of Object.entries(stage.constants ?? {})) {
      inputs[key] = { dims: [values.length], values };
    }
    return inputs;
  }

  #hidden(values: Float32Array): Given {
    const { spec, batch } = this.#reference;
    return { dims: [spec.hidden_size, batch.ids.length], values };
  }

  #context(t: Readonly<Record<string, Tensor>>): TrainingAttention {
    const { sequences, length } = this.#reference.batch;
    return new TrainingAttention({ sequences, length, positions: t.positions_!, mask: t.mask! });
  }
}

/** Relative: of the loss and the gradients' norm; of each gradient to the largest of its tensor. */
interface Tolerances {
  readonly loss: number;
  readonly gradients: number;
}
const F32: Tolerances = { loss: 1e-5, gradients: 1e-4 };

/** Sum of squares over all gradients, under the root. */
function norm(gradients: ReadonlyMap<string, Float32Array>): number {
  let sum = 0;
  for (const values of gradients.values()) for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}

async function expectReference(compute: Compute, name: string, within: Tolerances): Promise<void> {
  const reference = await readReference(name);
  const step = new Step(compute, reference);
  const loss = await step.run(24); // 62 predicting tokens: two whole blocks and one of 14
  expect(Math.abs(loss / reference.loss - 1)).toBeLessThan(within.loss);
  const gradNorm = norm(step.gradients);
  expect(Math.abs(gradNorm / reference.gradNorm - 1)).toBeLessThan(within.loss);

  const prefix = "grad_step1_clipped.";
  const names = [...reference.trained.tensors.keys()].filter((key) => key.startsWith(prefix));
  expect([...step.gradients.keys()].sort()).toEqual(names.map((key) => key.slice(prefix.length)).sort());
  const clip = Math.min(1, 1 / (gradNorm + 1e-6)); // torch.nn.utils.clip_grad_norm_ to 1
  for (const [weight, gradient] of step.gradients) {
    const expected = await floats(reference.trained, prefix + weight);
    const clipped = gradient.map((value) => value * clip);
    expect(relativeDifference(clipped, expected), weight).toBeLessThan(within.gradients);
  }
}

const FAMILIES = ["gpt2", "llama", "qwen2"];

describe("on the CPU: the loss within 1e-5, gradients within 1e-4 of the largest of their tensor", () => {
  test.each(FAMILIES)("%s", (name) =>
    onCpu((device) => {
      const compute: Compute = async (inputs, build) => {
        const evaluation = new Evaluation(device, inputs, build);
        try {
          return await evaluation.run(inputs);
        } finally {
          evaluation.dispose();
        }
      };
      return expectReference(compute, name, F32);
    }),
  );
});

describe("on a GPU: the same, as far as it multiplies in f32", () => {
  const gpu = TestGpu.find();
  afterAll(() => gpu?.dispose());

  testUnless(whyNoGpu(gpu)).each(FAMILIES)("%s", (name) => {
    const { tolerance } = gpu!;
    const within = tolerance <= F32.gradients ? F32 : { loss: tolerance, gradients: 10 * tolerance };
    return expectReference((inputs, build) => gpu!.evaluate(inputs, build), name, within);
  });
});

/** All rows of a batch's attention mask. */
function maskOf({ length, masks, mask }: TensorBatch): Uint16Array {
  const rows = new Uint16Array(length * length * masks);
  mask(rows, 0);
  return rows;
}

// What a stage keeps for backward, shown on the stages of the reference checkpoints: which results these are, and that backward
// then has no product of forward in its graph.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FIXTURES } from "../../../../test/golden/golden.ts";
import type { NativeBuffer } from "../../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../../backend/ggml/device.ts";
import { library } from "../../../backend/ggml/library.ts";
import type { Graph } from "../../../backend/ggml/ops.ts";
import { GraphError } from "../../../base/errors.ts";
import type { Unit } from "../../../plan/units.ts";
import { readSkeleton } from "../../../runtime/open/skeleton.ts";
import type { KnownModel } from "../../../runtime/open/training-hooks.ts";
import { buildGraph, withNowhere } from "../../../runtime/step/measure.ts";
import { NoMemory } from "../../open/measure-operands.ts";
import { Keepings, measureStep, wantedOf } from "../../open/measure-step.ts";
import type { TrainerOptions } from "../../open/options.ts";
import { trainerSettings } from "../../open/options.ts";
import { type Parameters, trainedParameters } from "../../open/parameters.ts";
import type { Keeping } from "./keeping.ts";
import { buildBackward, buildForward } from "./stage-graphs.ts";

const SHAPE = { sequences: 2, length: 12 };
const TOKENS = SHAPE.sequences * SHAPE.length;

let device: Device;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());

interface Opened {
  readonly known: KnownModel;
  readonly parameters: Parameters;
}

async function open(name: string, options: TrainerOptions = {}): Promise<Opened> {
  const known = { ...(await readSkeleton(join(FIXTURES, name))), device, cpu: device, budgets: {} };
  return { known, parameters: trainedParameters(known, trainerSettings(options)) };
}

/** The first stage of a kind that something below trains for. */
function stageOf({ known }: Opened, kind: string): Unit {
  return known.model.units.findLast((unit) => unit.stage.kind === kind) as Unit;
}

const keepingOf = ({ known, parameters }: Opened, unit: Unit): Keeping =>
  new Keepings(known, parameters).of(unit, SHAPE);

/** Matrix products in the graph that `build` makes over addresses nobody touches. */
function productsOf(
  { known, parameters }: Opened,
  build: (g: Graph, operands: NoMemory, memory: NativeBuffer) => unknown,
): number {
  return withNowhere((nowhere) => {
    const operands = new NoMemory(nowhere, known.spec, parameters, SHAPE, "cpu");
    let products = 0;
    buildGraph(device, 2048, (g) => {
      build(g, operands, nowhere);
      const { native } = library();
      for (let i = 0; i < native.ggml_graph_n_nodes(g.handle); i++) {
        const op = native.ggml_op_desc(native.ggml_graph_node(g.handle, i));
        if (op === "MUL_MAT" || op === "OUT_PROD") products++;
      }
    });
    return products;
  });
}

describe("what is kept", () => {
  test("of an MLP: what the derivative of silu(gate) * up reads; norm and activation are cheap, and computed again", async () => {
    const llama = await open("llama");
    const { intermediate_size: width } = llama.known.config as { intermediate_size: number };
    const { tensors, bytes } = keepingOf(llama, stageOf(llama, "mlp"));
    expect(tensors.map(({ op, ne }) => `${op} ${ne[0]} x ${ne[1]}`)).toEqual([
      `mul_mat ${width} x ${TOKENS}`, // gate
      `mul_mat ${width} x ${TOKENS}`, // up
    ]);
    expect(bytes).toBe(2 * width * TOKENS * 4);
  });

  test("of attention: queries, keys and values as their products take them, the weights of the mean, and the mean", async () => {
    const llama = await open("llama");
    const { tensors } = keepingOf(llama, stageOf(llama, "attention"));
    expect(tensors.map(({ op }) => op)).toEqual(["cont", "cont", "cont", "soft_max", "cont"]);
  });

  test("under an adapter only what its gradients and that of the input read", async () => {
    const whole = await open("llama");
    const adapter = await open("llama", { lora: { r: 4, target_modules: ["q_proj"] } });
    const [all, some] = [whole, adapter].map((model) => keepingOf(model, stageOf(model, "attention")));
    // The mean of the values is what the frozen output projection multiplies: no gradient reads it.
    expect(some?.tensors.filter(({ op }) => op === "cont")).toHaveLength(3);
    expect(all?.tensors.filter(({ op }) => op === "cont")).toHaveLength(4);
  });

  test("of an embedding nothing: it has no product", async () => {
    const llama = await open("llama");
    expect(keepingOf(llama, stageOf(llama, "embed"))).toEqual({ tensors: [], bytes: 0, flops: 0 });
  });
});

describe.each(["llama", "qwen2", "gpt2"])("%s", (name) => {
  test.each(["attention", "mlp"])("backward of %s computes no product of forward again", async (kind) => {
    const model = await open(name);
    const unit = stageOf(model, kind);
    const wanted = wantedOf(model.parameters, unit.index);
    const keeping = keepingOf(model, unit);
    const forward = productsOf(model, (g, o) => buildForward(g, unit, o));
    const again = productsOf(model, (g, o) => buildBackward(g, unit, o, wanted));
    const kept = productsOf(model, (g, o, memory) => buildBackward(g, unit, o, wanted, { keeping, memory }));
    // The last product of a stage, whose result is added to its input, is not computed again in either case.
    expect(again - kept).toBe(forward - 1);
    // For each product of forward one of the gradient of each of its operands: that is all that remains.
    expect(kept).toBe(2 * forward);
  });
});

test("a stage's graphs need less scratch memory where its results have a place of their own", async () => {
  const { known, parameters } = await open("llama");
  const measured = measureStep(known, parameters, SHAPE);
  const all = new Set(measured.stages.map(({ unit }) => unit));
  expect(measured.scratch(all)).toBeLessThanOrEqual(measured.scratch(new Set()));
  for (const { scratch, keeping } of measured.stages)
    if (keeping.bytes > 0) expect(scratch.kept).toBeLessThan(scratch.again);
});

test("a stage that is built otherwise than it was looked at is refused, not computed wrongly", async () => {
  const model = await open("llama");
  const unit = stageOf(model, "mlp");
  const keeping = new Keepings(model.known, model.parameters).of(unit, { sequences: 1, length: 5 });
  expect(() => productsOf(model, (g, o, memory) => buildForward(g, unit, o, { keeping, memory }))).toThrow(
    GraphError,
  );
});

// Tensors of all kinds thrown at all operations. One that gets past the builder's checks and fails one of ggml's ends
// the process, so what is not refused is computed.
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { GraphError } from "../../base/errors.ts";
import { Device, findDevice } from "./device.ts";
import { DTYPE_NAMES, DTYPES, type DType } from "./dtypes.ts";
import { HeaderArena } from "./graph.ts";
import { GraphMemory } from "./graph-memory.ts";
import { library } from "./library.ts";
import { Graph, type RopeParams } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

let device: Device;
let arena: HeaderArena;
let g: Graph;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
  arena = new HeaderArena(64, { graph: true });
});
afterAll(async () => {
  arena.dispose();
  await device.dispose();
});

const ROPE: Omit<RopeParams, "dims"> = {
  freqBase: 10_000,
  freqScale: 1,
  extFactor: 0,
  attnFactor: 1,
  betaFast: 32,
  betaSlow: 1,
  originalContext: 64,
};

const dims = fc.array(fc.constantFrom(1, 2, 3, 4, 8, 32, 64), { minLength: 1, maxLength: 4 });
const orders = [
  [1, 0, 2, 3],
  [0, 2, 1, 3],
  [2, 0, 1, 3],
  [3, 0, 1, 2],
] as [number, number, number, number][];
const kind = fc.record({
  dtype: fc.oneof({ weight: 3, arbitrary: fc.constant<DType>("f32") }, fc.constantFrom(...DTYPE_NAMES)),
  dims,
  order: fc.option(fc.constantFrom(...orders)),
  half: fc.boolean(),
});
type Kind = typeof kind extends fc.Arbitrary<infer K> ? K : never;

const inputs: Tensor[] = [];
function make({ dtype, dims, order, half }: Kind): Tensor {
  const { block } = DTYPES[dtype];
  const input = g.input(
    dtype,
    dims.map((n, i) => (i === 0 ? Math.ceil(n / block) * block : n)),
  );
  inputs.push(input);
  const [first, rows] = [input.ne[0], Math.ceil(input.ne[1] / 2)];
  const part = half ? g.view(input, [first, rows], [input.nb[1]], 0) : input;
  return order ? g.permute(part, ...order) : part;
}
function ids(count: number): Tensor {
  const input = g.input("i32", [count]);
  inputs.push(input);
  return input;
}
/** The second tensor with the first one's shape where `alike` says so: else hardly anything would fit. */
const pair = fc.record({ a: kind, b: kind, alike: fc.boolean() }).map(({ a, b, alike }) => ({
  a,
  b: alike ? { ...b, dims: a.dims, order: a.order, half: a.half } : b,
}));

const one: Record<string, (a: Tensor) => Tensor> = {
  scale: (a) => g.scale(a, 2, 1),
  silu: (a) => g.unary("silu", a),
  rmsNorm: (a) => g.rmsNorm(a, 1e-5),
  norm: (a) => g.norm(a, 1e-5),
  sumRows: (a) => g.sumRows(a),
  softMax: (a) => g.softMax(a, undefined, 1),
  reshape: (a) => g.reshape(a, a.elements),
  transpose: (a) => g.transpose(a),
  cont: (a) => g.cont(a),
  repeat: (a) =>
    g.repeat(
      a,
      a.ne.map((n) => 2 * n),
    ),
  rope: (a) => g.rope(a, ids(a.ne[2]), { ...ROPE, dims: a.ne[0] }),
  getRows: (a) => g.getRows(a, ids(2)),
};
const two: Record<string, (a: Tensor, b: Tensor) => Tensor> = {
  add: (a, b) => g.add(a, b),
  div: (a, b) => g.div(a, b),
  swiglu: (a, b) => g.swiglu(a, b),
  maskedSoftMax: (a, b) => g.softMax(a, b, 1),
  mulMat: (a, b) => g.mulMat(a, b),
  copy: (a, b) => g.copy(a, b),
  cast: (a, b) => g.cast(a, b.dtype),
  concat: (a, b) => g.concat(a, b, 1),
  flashAttention: (a, b) => g.flashAttention(a, b, b, undefined, 1),
};

/** Builds, and computes over zeros what was not refused. Returns whether it was computed. */
async function attempt(build: () => Tensor): Promise<boolean> {
  arena.reset();
  inputs.length = 0;
  g = new Graph(device, arena);
  const memory = new GraphMemory(device.memory, () => {});
  try {
    g.output(build());
    for (const input of inputs) g.expand(input);
    g.checkSupport();
    memory.place(g.handle);
    for (const { handle, bytes } of inputs) {
      library().native.ggml_backend_tensor_set(handle, new Uint8Array(bytes), 0, bytes);
    }
    await device.compute(g.handle);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(GraphError);
    return false;
  } finally {
    memory.dispose();
  }
}

const options = { numRuns: 60 };
test.each(Object.entries(one))("%s refuses or computes", async (_op, build) => {
  let computed = 0;
  const property = fc.asyncProperty(kind, async (k) => {
    computed += Number(await attempt(() => build(make(k))));
  });
  await fc.assert(property, options);
  expect(computed).toBeGreaterThan(0);
});
test.each(Object.entries(two))("%s refuses or computes", async (_op, build) => {
  const property = fc.asyncProperty(pair, async ({ a, b }) => {
    await attempt(() => build(make(a), make(b)));
  });
  await fc.assert(property, options);
});

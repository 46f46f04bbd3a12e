import { test } from "vitest";
import { Device, findDevice } from "../src/ggml/device.ts";
import { HeaderArena } from "../src/ggml/graph.ts";
import { GraphMemory } from "../src/ggml/graph-memory.ts";
import { Graph } from "../src/ggml/ops.ts";
import type { Tensor } from "../src/ggml/tensor.ts";

const ops: Record<string, (g: Graph) => Tensor> = {
  mulmat16: (g) => g.mulMat(g.input("f32", [64, 64]), g.input("f32", [64, 16])),
  mulmat16np: (g) => g.mulMat(g.input("f32", [64, 64]), g.input("f32", [64, 16]), { precise: false }),
  mulmat7: (g) => g.mulMat(g.input("f32", [64, 64]), g.input("f32", [64, 7])),
  mulmat16f16: (g) => g.mulMat(g.input("f16", [64, 64]), g.input("f32", [64, 16])),
  mulmat64: (g) => g.mulMat(g.input("f32", [64, 64]), g.input("f32", [64, 64])),
  fa16: (g) =>
    g.flashAttention(
      g.input("f32", [16, 16, 4]),
      g.input("f32", [16, 16, 2]),
      g.input("f32", [16, 16, 2]),
      g.input("f16", [16, 16]),
      1,
    ),
  fa16f16: (g) =>
    g.flashAttention(
      g.input("f32", [16, 16, 4]),
      g.input("f16", [16, 16, 2]),
      g.input("f16", [16, 16, 2]),
      g.input("f16", [16, 16]),
      1,
    ),
  fa7: (g) =>
    g.flashAttention(
      g.input("f32", [16, 7, 4]),
      g.input("f32", [16, 7, 2]),
      g.input("f32", [16, 7, 2]),
      g.input("f16", [7, 7]),
      1,
    ),
  rms: (g) => g.rmsNorm(g.input("f32", [64, 16]), 1e-5),
};
test("op", async () => {
  const d = Device.open(findDevice("vulkan"), { threads: 2 });
  const a = new HeaderArena(64, { graph: true });
  const g = new Graph(d, a);
  const m = new GraphMemory(d.memory, () => {});
  g.output(ops[process.env.OP!]!(g));
  g.checkSupport();
  m.place(g.handle);
  for (let i = 0; i < 5; i++) await d.compute(g.handle);
  m.dispose();
  await d.dispose();
  console.log("survived", process.env.OP);
});

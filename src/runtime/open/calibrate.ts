// How fast weights can be used that are in RAM while a GPU computes: brought to it, or multiplied by the CPU where they lie.

import type { Device } from "../../backend/ggml/device.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import { Graph } from "../../backend/ggml/ops.ts";
import { rowBytes } from "../../backend/ggml/tensor.ts";
import { upload, zeroBuffer } from "../../backend/ggml/transfer.ts";
import { disposeAll, runAllNow } from "../../base/async/cleanup.ts";
import type { Rates } from "../../plan/cost.ts";

/** What is measured of a machine. */
export type WeightRates = Omit<Rates, "disk">;

/** Elements of the matrix that is moved and multiplied: [WIDTH, ROWS], 16 MiB in bf16. */
const WIDTH = 2048;
const ROWS = 4096;
const REPEATS = 3;

const known = new Map<string, Promise<WeightRates>>();

/** Measured once for a device, a number of threads and a type: some tens of milliseconds, and 32 MiB that are given back. */
export function weightRates(device: Device, cpu: Device, dtype: DType): Promise<WeightRates> {
  const key = `${device.name} ${cpu.threads} ${dtype}`;
  let rates = known.get(key);
  if (!rates) {
    rates = measure(device, cpu, dtype);
    known.set(key, rates);
    rates.catch(() => known.delete(key));
  }
  return rates;
}

async function measure(device: Device, cpu: Device, dtype: DType): Promise<WeightRates> {
  const bytes = rowBytes(dtype, WIDTH) * ROWS;
  const host = device.hostMemory.allocate(bytes);
  try {
    await zeroBuffer(host);
    const there = device.memory.allocate(bytes);
    const headers = new HeaderArena(1);
    try {
      const target = headers.bind(there, 0, "i8", [bytes]);
      const moving = await shortest(() => upload(target, host.address(), bytes));
      return { upload: bytes / moving, product: bytes / (await productTime(cpu, host, dtype)) };
    } finally {
      runAllNow([() => headers.dispose(), () => there.dispose(), () => device.forgetBuffers()]);
    }
  } finally {
    host.dispose();
  }
}

async function productTime(cpu: Device, weights: ReturnType<Device["memory"]["allocate"]>, dtype: DType) {
  const arena = new HeaderArena(16, { graph: true });
  const graphs = new GraphMemory(cpu.memory, () => {});
  const x = cpu.memory.allocate(WIDTH * 4);
  try {
    await zeroBuffer(x);
    const g = new Graph(cpu, arena);
    const matrix = g.bind(weights, 0, dtype, [WIDTH, ROWS]);
    g.output(g.mulMat(matrix, g.bind(x, 0, "f32", [WIDTH, 1])));
    graphs.place(g.handle);
    return await shortest(() => cpu.compute(g.handle));
  } finally {
    disposeAll([x, graphs, arena]);
  }
}

/** Seconds of the fastest of a few runs: others are slower for reasons that pass. */
async function shortest(run: () => Promise<void>): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < REPEATS; i++) {
    const began = performance.now();
    await run();
    best = Math.min(best, (performance.now() - began) / 1000);
  }
  return Math.max(best, 1e-9);
}

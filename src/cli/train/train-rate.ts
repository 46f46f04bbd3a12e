// How fast a device multiplies matrices of the sizes training has: a fraction of a second of the real thing, for
// predictions. Says nothing of what else a step does.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { bytesOf, type DType } from "../../backend/ggml/dtypes.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { UpdateGraph } from "../../backend/ggml/update-graph.ts";
import { disposeInTurn } from "../../base/async/cleanup.ts";
import { throwIfAborted } from "../../base/errors.ts";

/** Weights [k, n] x activations [k, m]. */
const SHAPE = { k: 1024, n: 1024, m: 256 } as const;
/** Products in one graph, so that starting a graph counts as little as it does in a stage. */
const PRODUCTS = 4;

export interface MatmulRateOptions {
  /** Type of the weights; the other operand is f32. */
  readonly dtype: DType;
  readonly threads: number;
  /** Measured for as long; 0.3 if absent. */
  readonly seconds?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Floating-point operations per second. Takes some 7 MiB on the device. Throws LibraryError, ConfigError, AbortError. */
export async function measureMatmulRate(name: string, options: MatmulRateOptions): Promise<number> {
  const { dtype, threads, seconds: wanted = 0.3, signal } = options;
  const { k, n, m } = SHAPE;
  const sizes = [bytesOf(dtype, k * n), k * m * 4, n * m * 4];
  const device = Device.open(findDevice(name), { threads });
  const buffers: NativeBuffer[] = [];
  const arena = new HeaderArena(16, { graph: true });
  try {
    for (const bytes of sizes) buffers.push(device.memory.allocate(bytes));
    for (const buffer of buffers) buffer.clear();
    const [weights, activations, result] = buffers as [NativeBuffer, NativeBuffer, NativeBuffer];
    const g = new UpdateGraph(device, arena);
    const a = g.bind(weights, 0, dtype, [k, n]);
    const b = g.bind(activations, 0, "f32", [k, m]);
    for (let i = 0; i < PRODUCTS; i++) g.put(g.mulMat(a, b), { buffer: result, offset: 0 });
    g.checkSupport();
    await device.compute(g.handle); // the first time, kernels are compiled and threads wake up
    const began = performance.now();
    let graphs = 0;
    let seconds = 0;
    do {
      throwIfAborted(signal);
      await device.compute(g.handle);
      graphs++;
      seconds = (performance.now() - began) / 1000;
    } while (seconds < wanted);
    return (graphs * PRODUCTS * 2 * k * n * m) / seconds;
  } finally {
    await disposeInTurn([arena, ...buffers, device]);
  }
}

// How fast a device multiplies matrices of the sizes training has: a fraction of a second of the real thing, for
// predictions. Says nothing of what else a step does.
import { throwIfAborted } from "../errors.ts";
import type { NativeBuffer } from "../ggml/buffer.ts";
import { Device, findDevice } from "../ggml/device.ts";
import { bytesOf, type DType } from "../ggml/dtypes.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { Graph } from "../ggml/ops.ts";

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
    const g = new Graph(device, arena);
    const a = g.bind(weights, 0, dtype, [k, n]);
    const b = g.bind(activations, 0, "f32", [k, m]);
    const into = g.bind(result, 0, "f32", [n, m]);
    // Nothing between the products may be left out, so each has a copy to the same place after it.
    for (let i = 0; i < PRODUCTS; i++) g.output(g.copy(g.mulMat(a, b), into));
    return await timed(device, arena, g, wanted, signal);
  } finally {
    arena.dispose();
    for (const buffer of buffers) buffer.dispose();
    await device.dispose();
  }
}

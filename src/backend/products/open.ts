// Gives a device its wide products: finds the library, starts the crew, and measures once per machine and type from how many
// columns on it is faster than the tensor library.
import os from "node:os";
import type { Device } from "../ggml/device.ts";
import type { DType } from "../ggml/dtypes.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { GraphMemory } from "../ggml/graph-memory.ts";
import { library } from "../ggml/library.ts";
import { Graph } from "../ggml/ops.ts";
import {
  arithmeticFor,
  canMultiply,
  chooseArithmetic,
  keepLimits,
  type Limits,
  readLimits,
} from "./choice.ts";
import { ProductCrew } from "./crew.ts";
import { findProductLibrary, productMode } from "./find.ts";
import type { WideProducts } from "./product.ts";

/** The matrix that is measured with: larger than a core's caches. */
const MATRIX = { k: 2048, n: 1024 };
/** Columns that are tried. */
const COLUMNS = [8, 16, 32, 64, 128];
const REPEATS = 4;
/** How much faster a product has to be: below that, noise would decide. */
const GAIN = 1.15;

/**
 * From now on the device computes wide products of these types with the library of this machine, if there is one; without it
 * nothing changes. The device disposes what is started.
 */
export async function openProducts(device: Device, types: Iterable<DType>): Promise<void> {
  const mode = productMode();
  if (mode === "off" || !device.onHost || device.products) return;
  const { library: found } = findProductLibrary();
  if (!found) return;
  let crew: ProductCrew;
  try {
    crew = await ProductCrew.start(found, device.threads);
  } catch {
    return; // everything works without it
  }
  device.products = productsOf(crew, device.threads, mode === "all" ? undefined : {});
  if (mode === "all") return;
  try {
    const limits = await limitsOf(device, crew, new Set(types));
    device.products = productsOf(crew, device.threads, limits);
  } catch (error) {
    device.products = undefined;
    await crew.dispose();
    throw error;
  }
}

function productsOf(crew: ProductCrew, threads: number, limits: Limits | undefined): WideProducts {
  const { hasBf16 } = crew;
  return {
    bytes: ProductCrew.bytes(threads),
    arithmetic: (kind, type, m, n, k) => chooseArithmetic({ limits, hasBf16 }, kind, type, m, n, k),
    compute: (backend, graph, products) => crew.compute(backend, graph, products),
    dispose: () => crew.dispose(),
  };
}

/** What the limits depend on. */
function machineKey(crew: ProductCrew, threads: number): string {
  const cpu = os.cpus()[0]?.model ?? process.arch;
  return `${cpu}, ${threads} threads, ${crew.library.name}, ggml ${library().version}`;
}

async function limitsOf(device: Device, crew: ProductCrew, types: ReadonlySet<DType>): Promise<Limits> {
  const key = machineKey(crew, device.threads);
  const known: Partial<Record<DType, number | null>> = { ...readLimits(key) };
  const missing = [...types].filter((type) => canMultiply(type) && known[type] === undefined);
  if (missing.length === 0) return known;
  const measured: Partial<Record<DType, number | null>> = {};
  for (const type of missing) measured[type] = await measureLimit(device, crew, type);
  keepLimits(key, measured);
  return { ...known, ...measured };
}

/** The fewest columns from which on all are faster, or null. Leaves the device without products. */
async function measureLimit(device: Device, crew: ProductCrew, type: DType): Promise<number | null> {
  const arithmetic = arithmeticFor(type, crew.hasBf16);
  const everything: WideProducts = {
    ...productsOf(crew, device.threads, undefined),
    arithmetic: () => arithmetic,
  };
  let limit: number | null = null;
  for (const columns of COLUMNS.toReversed()) {
    const there = await seconds(device, everything, type, columns);
    const here = await seconds(device, undefined, type, columns);
    if (here < there * GAIN) break;
    limit = columns;
  }
  return limit;
}

/** The shortest of a few runs of a product. */
async function seconds(
  device: Device,
  products: WideProducts | undefined,
  type: DType,
  columns: number,
): Promise<number> {
  const { k, n } = MATRIX;
  device.products = products;
  const memory = device.memory.allocate(4 * k * (n + columns));
  const arena = new HeaderArena(16, { graph: true });
  const scratch = new GraphMemory(device.memory, () => {});
  try {
    memory.clear();
    const g = new Graph(device, arena, { wide: true });
    const x = g.bind(memory, 4 * k * n, "f32", [k, columns]);
    g.expand(g.mulMat(g.bind(memory, 0, type, [k, n]), x));
    scratch.place(g.handle);
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < REPEATS; i++) {
      const start = performance.now();
      await device.compute(g);
      best = Math.min(best, performance.now() - start);
    }
    return best / 1000;
  } finally {
    device.products = undefined;
    scratch.dispose();
    arena.dispose();
    memory.dispose();
  }
}

// Gives a device its wide products: finds the library, starts the crew, and measures once per machine and type from how many
// columns on it is faster than the tensor library.
import os from "node:os";
import { LibraryError } from "../../base/errors.ts";
import { Device, findDevice } from "../ggml/device.ts";
import type { DType } from "../ggml/dtypes.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { GraphMemory } from "../ggml/graph-memory.ts";
import { library } from "../ggml/library.ts";
import { Graph } from "../ggml/ops.ts";
import { canMultiply, chooseArithmetic, keepLimits, type Limits, readLimits } from "./choice.ts";
import { ProductCrew } from "./crew.ts";
import { findProductLibrary, type ProductLibrary, productInstallCommand, productMode } from "./find.ts";
import type { WideProducts } from "./product.ts";

/** The matrix that is measured with: larger than a core's caches. */
const MATRIX = { k: 2048, n: 1024 };
/** Columns that are tried. */
const COLUMNS = [8, 16, 32, 64, 128];
const REPEATS = 6;
/** How much faster a product has to be: below that, noise would decide. */
const GAIN = 1.15;

/**
 * From now on the device computes wide products of these types with the library of this machine, if there is one; without it
 * nothing changes. The device disposes what is started.
 */
export async function openProducts(device: Device, types: Iterable<DType>): Promise<void> {
  const mode = productMode();
  if (mode === "off" || !device.onHost || device.products) return;
  const { library: found, refused } = findProductLibrary();
  if (!found) {
    if (mode === "all") throw new LibraryError(`SPILLWAY_DNNL=all, and no library: ${whyNone(refused)}`);
    return;
  }
  try {
    const limits = mode === "all" ? undefined : await limitsOf(found, new Set(types));
    if (limits && !Object.values(limits).some((limit) => limit !== null)) return;
    const { most } = device.team;
    const crew = await ProductCrew.start(found, most);
    device.products = productsOf(crew, most, limits);
  } catch (error) {
    if (!(error instanceof LibraryError) || mode === "all") throw error; // it cannot be used here, and everything works without it
  }
}

function whyNone(refused: readonly string[]): string {
  return refused.length > 0 ? refused.join("; ") : `none was found; try: ${productInstallCommand()}`;
}

function productsOf(crew: ProductCrew, threads: number, limits: Limits | undefined): WideProducts {
  const { hasBf16 } = crew;
  return {
    bytes: ProductCrew.bytes(threads),
    arithmetic: (...product) => chooseArithmetic({ limits, hasBf16 }, ...product),
    compute: (backend, graph, products, threads) => crew.compute(backend, graph, products, threads),
    dispose: () => crew.dispose(),
  };
}

/** What was measured on this machine before: fewest columns by type. Empty until a model needed it. */
export function measuredLimits(found: ProductLibrary): Limits {
  return readLimits(machineKey(found));
}

/** What the limits depend on: not the number of threads, so that the same products go there whatever it is. */
function machineKey(found: ProductLibrary): string {
  return `${os.cpus()[0]?.model ?? process.arch}, ${found.name}, ggml ${library().version}`;
}

async function limitsOf(found: ProductLibrary, types: ReadonlySet<DType>): Promise<Limits> {
  const key = machineKey(found);
  const known: Partial<Record<DType, number | null>> = { ...readLimits(key) };
  const missing = [...types].filter((type) => canMultiply(type) && known[type] === undefined);
  if (missing.length === 0) return known;
  const measured: Partial<Record<DType, number | null>> = {};
  // One thread on each side: with several, whoever else uses a core would decide.
  const device = Device.open(findDevice("cpu"), { threads: 1 });
  try {
    const crew = await ProductCrew.start(found, 1);
    device.products = productsOf(crew, 1, undefined);
    for (const type of missing) measured[type] = await measureLimit(device, type);
  } finally {
    await device.dispose();
  }
  keepLimits(key, measured);
  return { ...known, ...measured };
}

/** The fewest columns from which on all are faster, or null. */
async function measureLimit(device: Device, type: DType): Promise<number | null> {
  let limit: number | null = null;
  for (const columns of COLUMNS.toReversed()) {
    const { here, there } = await times(device, type, columns);
    if (here < there * GAIN) break;
    limit = columns;
  }
  return limit;
}

/** Milliseconds of a product in the tensor library and outside: the shortest of a few runs of each, in turn. */
async function times(device: Device, type: DType, columns: number): Promise<{ here: number; there: number }> {
  const { k, n } = MATRIX;
  const memory = device.memory.allocate(4 * k * (n + columns));
  const arenas = [false, true].map((wide) => ({ wide, arena: new HeaderArena(16, { graph: true }) }));
  const scratch = arenas.map(() => new GraphMemory(device.memory, () => {}));
  try {
    memory.clear();
    const graphs = arenas.map(({ wide, arena }, i) => {
      const g = new Graph(device, arena, { wide });
      const x = g.bind(memory, 4 * k * n, "f32", [k, columns]);
      g.expand(g.mulMat(g.bind(memory, 0, type, [k, n]), x));
      scratch[i]?.place(g.handle);
      return g;
    });
    const best = graphs.map(() => Number.POSITIVE_INFINITY);
    for (let repeat = 0; repeat < REPEATS; repeat++) {
      for (const [i, g] of graphs.entries()) {
        const start = performance.now();
        await device.compute(g);
        best[i] = Math.min(best[i] as number, performance.now() - start);
      }
    }
    return { here: best[0] as number, there: best[1] as number };
  } finally {
    for (const one of scratch) one.dispose();
    for (const { arena } of arenas) arena.dispose();
    memory.dispose();
  }
}

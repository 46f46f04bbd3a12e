// The size of gradients, for clipping, and whether any of them is not a number: a row's squares are summed by the
// library in f32, rows in doubles here. Looks and reports; scaling is the updater's business.
import { ConfigError, throwIfAborted } from "../../errors.ts";
import type { Device } from "../../ggml/device.ts";
import { HeaderArena } from "../../ggml/graph.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { type Slab, UpdateGraph } from "./kernels.ts";

/** `elements` f32 values of host memory from byte `offset` on. */
export interface GradientPart extends Slab {
  readonly elements: number;
}

export interface NormContext {
  /** Does the sums. */
  readonly cpu: Device;
  readonly ledger: Ledger;
  readonly signal?: AbortSignal | undefined;
}

export interface GradientNorm {
  /** The sum of the squares of all values: the square of the global norm. NaN or Infinity where one of them is. */
  readonly sumOfSquares: number;
  /** Indexes of the gradients that hold NaN or an infinity. A step must not be made with them. */
  readonly nonFinite: readonly number[];
}

/** Values whose squares are added up in f32. */
const ROW = 1024;
/** Rows of one graph: 16 MiB of gradient. */
const ROWS = 4096;

/**
 * Adds up the squares of gradients, in their order: the same values in the same parts give the same sum, wherever they
 * lie. Relative error about 1e-6; values below 1e-19 count as zero. Throws ConfigError for a part outside its buffer.
 */
export async function gradientNorm2(
  gradients: readonly GradientPart[],
  { cpu, ledger, signal }: NormContext,
): Promise<GradientNorm> {
  for (const [i, part] of gradients.entries()) check(part, i);
  const results = Allocation.take(ledger, "cpu", cpu.memory, (ROWS + 1) * 4, "gradient norms");
  const arena = new HeaderArena(16, { graph: true });
  try {
    const sums = { buffer: results.buffer, offset: 0 };
    const nonFinite: number[] = [];
    let sumOfSquares = 0;
    for (const [index, gradient] of gradients.entries()) {
      let sum = 0;
      for (let first = 0; first < gradient.elements; first += ROW * ROWS) {
        throwIfAborted(signal);
        const count = Math.min(ROW * ROWS, gradient.elements - first);
        arena.reset();
        const g = new UpdateGraph(cpu, arena);
        const rows = Math.floor(count / ROW);
        const rest = count % ROW;
        if (rows > 0) {
          const a = g.at(gradient, [ROW, 1, rows], "f32", first);
          g.put(g.mulMat(a, a), sums); // [1, 1, rows]
        }
        if (rest > 0) {
          const a = g.at(gradient, [rest, 1, 1], "f32", first + rows * ROW);
          g.put(g.mulMat(a, a), sums, rows);
        }
        await cpu.compute(g.handle);
        const found = new Float32Array(results.buffer.view(0, (rows + 1) * 4));
        for (let row = 0; row * ROW < count; row++) {
          const squares = found[row] as number;
          // Squares of numbers above 1e19 are infinite in f32 though the numbers are not.
          sum += Number.isFinite(squares) ? squares : exactSum(gradient, first + row * ROW);
        }
      }
      if (!Number.isFinite(sum)) nonFinite.push(index);
      sumOfSquares += sum;
    }
    return { sumOfSquares, nonFinite };
  } finally {
    arena.dispose();
    results.dispose();
  }
}

/** The squares of the row from element `first` on, in doubles. */
function exactSum({ buffer, offset, elements }: GradientPart, first: number): number {
  const count = Math.min(ROW, elements - first);
  let sum = 0;
  for (const value of new Float32Array(buffer.view(offset + first * 4, count * 4))) sum += value * value;
  return sum;
}

function check({ buffer, offset, elements }: GradientPart, index: number): void {
  const numbers = [offset, elements].every((n) => Number.isSafeInteger(n) && n >= 0) && offset % 4 === 0;
  if (numbers && buffer.type.host && offset + elements * 4 <= buffer.size) return;
  throw new ConfigError(
    `gradient ${index}: ${elements} values at byte ${offset} are not in host memory of ${buffer.size} bytes`,
  );
}

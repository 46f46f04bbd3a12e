// The size of gradients, for clipping, and whether any of them is not a number: a row's squares are summed by the
// library in f32, rows in doubles here. Looks and reports; scaling is the updater's business.

import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { type Slab, UpdateGraph } from "../../backend/ggml/update-graph.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { ConfigError, throwIfAborted } from "../../base/errors.ts";
import { inGroups } from "../../base/groups.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";

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
  /** Of each gradient, the sum of the squares of its values. NaN or Infinity where one of them is. */
  readonly squares: readonly number[];
  /** Their sum: the square of the global norm. */
  readonly sumOfSquares: number;
  /** Indexes of the gradients that hold NaN or an infinity. A step must not be made with them. */
  readonly nonFinite: readonly number[];
}

/** Values whose squares are added up in f32. */
const ROW = 1024;
/** Rows of one graph, 64 MiB of gradient: starting a graph takes as long as the rows of a small gradient. */
const ROWS = 16_384;
/** A run counts as so many rows at least, for there to be headers enough. */
const LEAST = 128;

/** Rows of a gradient that lie side by side, all of one length. */
interface Run {
  readonly index: number;
  readonly first: number;
  readonly length: number;
  readonly rows: number;
}

/**
 * Adds up the squares of gradients, in their order: the same values in the same parts give the same sum, wherever they
 * lie. Relative error about 1e-6; values below 1e-19 count as zero. Throws ConfigError for a part outside its buffer.
 */
export async function gradientNorm2(
  gradients: readonly GradientPart[],
  { cpu, ledger, signal }: NormContext,
): Promise<GradientNorm> {
  for (const [i, part] of gradients.entries()) check(part, i);
  const results = Allocation.take(ledger, "cpu", cpu.memory, ROWS * 4, "gradient norms");
  const arena = new HeaderArena((2 * ROWS) / LEAST, { graph: true });
  try {
    const sums = { buffer: results.buffer, offset: 0 };
    const squares = gradients.map(() => 0);
    for (const runs of inGroups(runsOf(gradients), ROWS, ({ rows }) => Math.max(rows, LEAST))) {
      throwIfAborted(signal);
      arena.reset();
      const g = new UpdateGraph(cpu, arena);
      let at = 0;
      for (const { index, first, length, rows } of runs) {
        const a = g.at(gradients[index] as GradientPart, [length, 1, rows], "f32", first);
        g.put(g.mulMat(a, a), sums, at); // [1, 1, rows]
        at += rows;
      }
      const amount = runs.reduce((sum, { length, rows }) => sum + length * rows, 0);
      await cpu.compute(g.handle, { kind: "gradient norm", amount });
      const found = new Float32Array(results.buffer.view(0, at * 4));
      at = 0;
      for (const { index, first, length, rows } of runs) {
        const gradient = gradients[index] as GradientPart;
        let sum = squares[index] as number;
        for (let row = 0; row < rows; row++) {
          const square = found[at++] as number;
          // Squares of numbers above 1e19 are infinite in f32 though the numbers are not.
          sum += Number.isFinite(square) ? square : exactSum(gradient, first + row * length, length);
        }
        squares[index] = sum;
      }
    }
    return {
      squares,
      sumOfSquares: squares.reduce((a, b) => a + b, 0),
      nonFinite: [...squares.keys()].filter((i) => !Number.isFinite(squares[i])),
    };
  } finally {
    disposeAll([arena, results]);
  }
}

function runsOf(gradients: readonly GradientPart[]): Run[] {
  return gradients.flatMap(({ elements }, index) => {
    const runs: Run[] = [];
    const whole = Math.floor(elements / ROW);
    for (let row = 0; row < whole; row += ROWS)
      runs.push({ index, first: row * ROW, length: ROW, rows: Math.min(ROWS, whole - row) });
    if (elements > whole * ROW)
      runs.push({ index, first: whole * ROW, length: elements - whole * ROW, rows: 1 });
    return runs;
  });
}

/** The squares of `count` values from element `first` on, in doubles. */
function exactSum({ buffer, offset }: GradientPart, first: number, count: number): number {
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

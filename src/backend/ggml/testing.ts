// For the tests of this folder only: numbers on up to four dimensions, and graphs held against loops over them.
import { expect } from "vitest";
import type { Device } from "./device.ts";
import { Evaluation, type Inputs } from "./gradients/testing.ts";
import type { Graph } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

export type Dims = readonly [number, number, number, number];

/** Numbers on up to four dimensions, fastest-varying first, as the library counts them. */
export class Grid {
  readonly dims: Dims;
  readonly values: Float64Array;
  constructor(dims: readonly number[], value: (i: Dims) => number) {
    this.dims = [dims[0] ?? 1, dims[1] ?? 1, dims[2] ?? 1, dims[3] ?? 1];
    const [a, b, c, d] = this.dims;
    this.values = new Float64Array(a * b * c * d);
    for (let at = 0; at < this.values.length; at++) {
      const i1 = Math.floor(at / a);
      const i2 = Math.floor(i1 / b);
      this.values[at] = value([at % a, i1 % b, i2 % c, Math.floor(i2 / c)]);
    }
  }
  /** The value at an index, which repeats beyond the end of a dimension. */
  at(i0: number, i1 = 0, i2 = 0, i3 = 0): number {
    const [a, b, c, d] = this.dims;
    return this.values[(i0 % a) + a * ((i1 % b) + b * ((i2 % c) + c * (i3 % d)))] as number;
  }
  map(f: (x: number) => number): Grid {
    return new Grid(this.dims, (i) => f(this.at(...i)));
  }
  /** The numbers of row (i1, i2, i3). */
  row(i1: number, i2: number, i3: number): number[] {
    return Array.from({ length: this.dims[0] }, (_, i0) => this.at(i0, i1, i2, i3));
  }
}

/** Builds and computes a graph and expects the reference's shape and, but for the rounding of f32, its numbers. */
export async function expectGives(
  device: Device,
  inputs: Inputs,
  build: (g: Graph, t: Record<string, Tensor>) => Tensor,
  reference: Grid,
  tolerance = 2e-6,
): Promise<void> {
  let dims: Dims | undefined;
  const evaluation = new Evaluation(device, inputs, (g, t) => {
    const result = build(g, t);
    dims = result.ne;
    return { result };
  });
  try {
    const { result } = await evaluation.run(inputs);
    expect(dims).toEqual(reference.dims);
    const scale = Math.max(1, ...reference.values.map(Math.abs));
    for (const [i, value] of reference.values.entries()) {
      expect(Math.abs((result?.[i] ?? Number.NaN) - value), `element ${i}`).toBeLessThanOrEqual(
        tolerance * scale,
      );
    }
  } finally {
    evaluation.dispose();
  }
}

/** exp(a * scale + mask) of each row, divided by its sum. */
export function softMax(a: Grid, mask: Grid | undefined, scale: number): Grid {
  return new Grid(a.dims, ([i0, i1, i2, i3]) => {
    const row = a.row(i1, i2, i3).map((x, i) => x * scale + (mask?.at(i, i1, i2, i3) ?? 0));
    const most = Math.max(...row);
    return Math.exp((row[i0] as number) - most) / sum(row.map((x) => Math.exp(x - most)));
  });
}

/** The sum of products. */
export function dot(a: readonly number[], b: readonly number[]): number {
  return sum(a.map((x, i) => x * (b[i] as number)));
}

export function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

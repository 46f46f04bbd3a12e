import { expect, test } from "vitest";
import { narrowDoubles } from "./narrow-doubles.ts";

test.each([0, 1, 8191, 8192, 8193, 20_000])(
  "%i doubles become the floats nearest to them, wherever they lie",
  (n) => {
    const doubles = Float64Array.from({ length: n }, (_, i) => Math.PI * (i - 7));
    const memory = new Uint8Array(n * 8 + 3);
    memory.set(new Uint8Array(doubles.buffer), 3);
    narrowDoubles(memory.subarray(3), n);
    expect(new Float32Array(memory.slice(3, 3 + n * 4).buffer)).toEqual(Float32Array.from(doubles));
  },
);

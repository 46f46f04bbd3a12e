// What each operation of the graph builder refuses, and that nothing else suffers from it.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { GraphError } from "../../base/errors.ts";
import { Device, findDevice } from "./device.ts";
import { ArenaFullError, HeaderArena } from "./graph.ts";
import { GraphMemory } from "./graph-memory.ts";
import { library } from "./library.ts";
import { Graph, type RopeParams } from "./ops.ts";

let device: Device;
let arena: HeaderArena;
let g: Graph;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());
beforeEach(() => {
  arena = new HeaderArena(64, { graph: true });
  g = new Graph(device, arena);
});
afterEach(() => arena.dispose());

const f32 = (...dims: number[]) => g.input("f32", dims);
const f16 = (...dims: number[]) => g.input("f16", dims);
const i32 = (...dims: number[]) => g.input("i32", dims);
/** Elements of a row are apart in memory. */
const turned = (...dims: number[]) => g.transpose(g.input("f32", dims));
/** Rows are whole, but there are gaps between them. */
const gaps = (n: number, rows: number) => g.view(f32(2 * n, rows), [n, rows], [8 * n], 0);

const ROPE: RopeParams = {
  dims: 8,
  freqBase: 10_000,
  freqScale: 1,
  extFactor: 0,
  attnFactor: 1,
  betaFast: 32,
  betaSlow: 1,
  originalContext: 64,
};

const REFUSED: Record<string, [string, () => unknown, RegExp][]> = {
  "add, sub, mul, div": [
    ["of halves", () => g.add(f16(4), f32(4)), /add: both must be f32/],
    ["of whole numbers", () => g.sub(f32(4), i32(4)), /sub: both must be f32/],
    ["of sizes that do not repeat", () => g.mul(f32(4), f32(3)), /mul: .*\[3, 1, 1, 1\] cannot be repeated/],
    ["larger second", () => g.div(f32(4), f32(4, 2)), /div: .* cannot be repeated/],
    ["turned", () => g.add(turned(4, 3), f32(3)), /rows must be contiguous/],
  ],
  scale: [
    ["halves", () => g.scale(f16(4), 2), /scale: f32/],
    ["gaps", () => g.scale(gaps(4, 3), 2), /contiguous/],
    ["turned, though one row", () => g.scale(turned(1, 4), 2), /contiguous/],
  ],
  unary: [
    ["whole numbers", () => g.unary("exp", i32(4)), /exp: f32/],
    ["gaps", () => g.unary("silu", gaps(4, 3)), /silu: .*contiguous/],
  ],
  swiglu: [
    ["two shapes", () => g.swiglu(f32(4, 2), f32(4)), /one shape/],
    ["halves", () => g.swiglu(f16(4), f16(4)), /f32/],
    ["gaps", () => g.swiglu(gaps(4, 3), f32(4, 3)), /contiguous/],
  ],
  "rmsNorm, norm": [
    ["halves", () => g.rmsNorm(f16(4), 1e-5), /rms_norm: f32/],
    ["turned", () => g.norm(turned(4, 4), 1e-5), /norm: .*contiguous rows/],
    ["a negative epsilon", () => g.rmsNorm(f32(4), -1), /eps -1/],
    ["no epsilon", () => g.norm(f32(4), Number.NaN), /eps NaN/],
  ],
  sumRows: [["turned", () => g.sumRows(turned(4, 4)), /sum_rows: .*contiguous rows/]],
  getRows: [
    ["ids that are not i32", () => g.getRows(f32(4, 4), f32(2)), /ids i32/],
    ["a matrix of ids", () => g.getRows(f32(4, 4), i32(2, 2)), /1-D/],
    ["more than a matrix", () => g.getRows(f32(4, 4, 2), i32(2)), /a matrix/],
    ["bytes", () => g.getRows(g.input("i8", [4, 4]), i32(2)), /no rows of/],
  ],
  softMax: [
    ["halves", () => g.softMax(f16(4), undefined, 1), /f32/],
    ["a mask of another width", () => g.softMax(f32(4, 2), f32(3, 2), 1), /mask/],
    ["a mask of fewer rows", () => g.softMax(f32(4, 2), f32(4, 1), 1), /mask/],
    ["sinks of other heads", () => g.softMax(f32(4, 2, 3), undefined, 1, f32(2)), /soft_max: sinks/],
    ["sinks of halves", () => g.softMax(f32(4, 2, 3), undefined, 1, f16(3)), /soft_max: sinks/],
    ["a mask of bf16", () => g.softMax(f32(4, 2), g.input("bf16", [4, 2]), 1), /f16 or f32/],
    ["a mask that does not repeat", () => g.softMax(f32(4, 2, 3), f32(4, 2, 2), 1), /mask/],
  ],
  mulMat: [
    ["inner sizes that differ", () => g.mulMat(f32(4, 2), f32(5, 2)), /inner sizes differ/],
    ["matrices that do not repeat", () => g.mulMat(f32(4, 2, 2), f32(4, 2, 3)), /does not repeat/],
    ["halves on the right", () => g.mulMat(f32(4, 2), f16(4, 2)), /second operand must be f32/],
    ["whole numbers", () => g.mulMat(i32(4, 2), f32(4, 2)), /no products/],
    ["doubles", () => g.mulMat(g.input("f64", [4, 2]), f32(4, 2)), /no products/],
    ["turned", () => g.mulMat(turned(2, 4), f32(4, 2)), /rows must be contiguous/],
  ],
  rope: [
    ["halves", () => g.rope(f16(8, 2, 3), i32(3), ROPE), /f32/],
    ["positions for other tokens", () => g.rope(f32(8, 2, 3), i32(4), ROPE), /rope: .*\[4, 1, 1, 1\] for/],
    ["positions that are not i32", () => g.rope(f32(8, 2, 3), f32(3), ROPE), /rope/],
    ["more dimensions than there are", () => g.rope(f32(4, 2, 3), i32(3), ROPE), /8 rotated dimensions/],
    ["an odd number of them", () => g.rope(f32(8, 2, 3), i32(3), { ...ROPE, dims: 3 }), /3 rotated/],
    ["none", () => g.rope(f32(8, 2, 3), i32(3), { ...ROPE, dims: 0 }), /0 rotated/],
    ["too few factors", () => g.rope(f32(8, 2, 3), i32(3), ROPE, f32(3)), /factors/],
  ],
  flashAttention: [
    ["q of halves", () => g.flashAttention(f16(8, 2, 2), f16(8, 4, 2), f16(8, 4, 2), undefined, 1), /q f32/],
    [
      "k and v of two types",
      () => g.flashAttention(f32(8, 2, 2), f16(8, 4, 2), f32(8, 4, 2), undefined, 1),
      /one type/,
    ],
    [
      "whole numbers",
      () => g.flashAttention(f32(8, 2, 2), i32(8, 4, 2), i32(8, 4, 2), undefined, 1),
      /one type/,
    ],
    [
      "heads of two sizes",
      () => g.flashAttention(f32(8, 2, 2), f32(4, 4, 2), f32(4, 4, 2), undefined, 1),
      /shapes/,
    ],
    [
      "k and v of two lengths",
      () => g.flashAttention(f32(8, 2, 2), f32(8, 4, 2), f32(8, 5, 2), undefined, 1),
      /shapes/,
    ],
    [
      "heads that do not group",
      () => g.flashAttention(f32(8, 2, 3), f32(8, 4, 2), f32(8, 4, 2), undefined, 1),
      /heads/,
    ],
    [
      "a mask of f32",
      () => g.flashAttention(f32(8, 2, 2), f32(8, 4, 2), f32(8, 4, 2), f32(4, 2), 1),
      /mask must be f16/,
    ],
    [
      "a mask too small",
      () => g.flashAttention(f32(8, 2, 2), f32(8, 4, 2), f32(8, 4, 2), f16(4, 1), 1),
      /mask/,
    ],
    [
      "sinks of other heads",
      () => g.flashAttention(f32(8, 2, 2), f32(8, 4, 2), f32(8, 4, 2), undefined, 1, { sinks: f32(3) }),
      /flash_attn: sinks/,
    ],
    [
      "a soft cap below 0",
      () => g.flashAttention(f32(8, 2, 2), f32(8, 4, 2), f32(8, 4, 2), undefined, 1, { softcap: -1 }),
      /flash_attn: softcap/,
    ],
  ],
  reshape: [
    ["other elements", () => g.reshape(f32(4, 3), 5), /has not the elements of \[5, 1, 1, 1\]/],
    ["gaps", () => g.reshape(gaps(4, 3), 12), /contiguous/],
    ["no dimensions", () => g.reshape(f32(4)), /1 to 4 dimensions/],
    ["five", () => g.reshape(f32(4), 1, 1, 1, 1, 4), /1 to 4 dimensions/],
    ["a fraction", () => g.reshape(f32(4), 2.5), /is not a shape/],
  ],
  view: [
    ["past the end", () => g.view(f32(4, 3), [4, 2], [16], 20), /bytes 20 to 52 of .*, which has 48/],
    ["rows too far apart", () => g.view(f32(4, 3), [4, 3], [20], 0), /view/],
    ["before the start", () => g.view(f32(4, 3), [4], [], -16), /multiples of 4/],
    ["a negative stride", () => g.view(f32(4, 3), [4, 2], [-16], 16), /multiples of 4/],
    ["in the middle of an element", () => g.view(f32(4, 3), [2], [], 2), /multiples of 4/],
    ["rows on top of each other", () => g.view(f32(4), [4, 3], [0], 0), /view/],
    ["part of a block", () => g.view(g.input("q8_0", [32, 2]), [16], [], 0), /multiples of 32/],
  ],
  permute: [
    ["an axis twice", () => g.permute(f32(2, 3), 0, 0, 2, 3), /0,0,2,3 are not an order/],
    ["an axis that is not there", () => g.permute(f32(2, 3), 0, 1, 2, 4), /not an order/],
  ],
  cont: [
    ["blocks rearranged", () => g.cont(g.permute(g.input("q8_0", [32, 2, 3]), 0, 2, 1, 3)), /quantized/],
  ],
  "cast, copy": [
    ["rows that are not whole blocks", () => g.cast(f32(33), "q8_0"), /multiples of 32/],
    ["to bytes", () => g.cast(f32(4), "i8"), /no conversion/],
    ["from doubles", () => g.cast(g.input("f64", [4]), "f32"), /no conversion/],
    ["between blocks", () => g.cast(g.input("q8_0", [256]), "q4_k"), /no conversion/],
    ["blocks to halves", () => g.cast(g.input("q8_0", [256]), "f16"), /no conversion/],
    ["into another size", () => g.copy(f32(4), f32(5)), /differ in size/],
    ["halves into whole numbers", () => g.copy(f16(4), i32(4)), /no conversion/],
  ],
  repeat: [
    ["halves", () => g.repeat(f16(2), [4]), /f32/],
    ["to a size that does not fit", () => g.repeat(f32(2), [5]), /does not repeat/],
    ["turned", () => g.repeat(turned(2, 3), [6, 2]), /contiguous rows/],
  ],
  concat: [
    ["other dimensions that differ", () => g.concat(f32(2, 3), f32(2, 4), 0), /differ beside dimension 0/],
    ["halves", () => g.concat(f16(2), f16(2), 0), /f32/],
    ["a dimension that is not there", () => g.concat(f32(2), f32(2), 4 as 3), /no dimension 4/],
    ["a negative dimension", () => g.concat(f32(2), f32(2), -1 as 0), /no dimension -1/],
  ],
  input: [
    ["an empty dimension", () => f32(4, 0), /is not a shape/],
    ["a negative one", () => f32(-4), /is not a shape/],
    ["more elements than can be counted", () => f32(2 ** 40, 2 ** 40), /too large/],
    ["part of a block", () => g.input("q4_k", [128]), /multiples of 256/],
  ],
};

describe.each(Object.entries(REFUSED))("%s refuses", (_op, cases) => {
  test.each(cases)("%s", (_what, build, message) => {
    let error: unknown;
    try {
      build();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(GraphError);
    expect((error as GraphError).message).toMatch(message);
  });
});

test("after a refusal the graph goes on as if it had not been tried", async () => {
  const memory = new GraphMemory(device.memory, () => {});
  const a = f32(2);
  expect(() => g.add(a, f32(3))).toThrow(GraphError);
  const twice = g.output(g.add(a, a));
  memory.place(g.handle);
  library().native.ggml_backend_tensor_set(a.handle, Float32Array.of(1, 2), 0, 8);
  await device.compute(g.handle);
  const out = new Float32Array(2);
  library().native.ggml_backend_tensor_get(twice.handle, out, 0, 8);
  expect([...out]).toEqual([2, 4]);
  memory.dispose();
});

test("a graph with more tensors than its arena holds: an error of its own, which asks for a larger one", () => {
  expect(() => {
    for (let x = f32(4); ; ) x = g.add(x, x);
  }).toThrow(ArenaFullError);
  arena.reset();
  expect(new Graph(device, arena).input("f32", [4]).elements).toBe(4);
});

// AdamW with both moments in 8 bits, about 2.2 bytes per element instead of 8 (after Dettmers et al. 2022, block-wise
// quantization). The step itself is AdamW's, in f32, on moments that are unpacked for it and packed again.
//
// What is kept is chosen so that rounding cannot blow a step up:
//   ratio  m / sqrt(v), the direction of the step. Its size is bounded (by 7.3 for the usual betas), and where sqrt(v)
//          is rounded to zero, m is zero with it: a small m over a v rounded to zero would be a huge step.
//   root   v^(1/4), over the root mean square of its block of 256: four orders of magnitude of gradients fit in 8 bits.
// Both as q8_0: whole numbers up to 127 times a scale per 32 neighbours. A block is one column of a tile: the elements
// i, i + 256, i + 512 ... of 65,536, so that scales are a row of a matrix. They are f32: v falls by 0.1 % per step where
// gradients vanish, which scales in f16 would round away, step by step, for ever.
//
// Error: half a unit of 1/127 of the largest of the 32 neighbours, in ratio (0.4 % of the largest step among them) and
// in root: sqrt(v) of an element is off by 0.8 % / sqrt(f), f being its part of the largest sqrt(v) around, and is taken
// for zero below f = 1.6e-5. What changes by less than half a unit in a step stays where it is. For gradients of 1e-18
// to 1e18.
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { ADAMW_CONSTANTS, type Slab, type UpdateGraph } from "../../../backend/ggml/update-graph.ts";
import { type AdamOptions, adamConstants } from "./adamw.ts";
import {
  BLOCK,
  type Block,
  type GraphRule,
  type MomentFormat,
  pieces,
  type StepParams,
  TILE,
} from "./rule.ts";

/** Elements of a tile's row: as many blocks as a tile has, and as many elements as a block has. */
const SIDE = 256;
/** Bytes of q8_0 per row of a tile. */
const ROW_BYTES = (SIDE / 32) * 34;
/** Keeps 0 / 0 from being asked; far below what matters beside eps. */
const TINY = { ratio: 1e-20, scale: 1e-30 } as const;

const codes = (name: string): MomentFormat => ({
  name,
  bytes: (elements) => Math.ceil(elements / SIDE) * ROW_BYTES,
});

export class Adam8bit implements GraphRule {
  readonly name = "Adam8bit";
  readonly moments: readonly MomentFormat[] = [
    codes("exp_avg (8 bit)"),
    codes("exp_avg_sq (8 bit)"),
    { name: "exp_avg_sq scales", bytes: (elements) => Math.ceil(elements / TILE) * SIDE * 4 },
  ];
  readonly scratch = 3;
  readonly #constants: (params: StepParams) => readonly number[];

  /** Throws ConfigError for values out of range. */
  constructor(options: AdamOptions = {}) {
    this.#constants = adamConstants(options);
  }

  /** Those of AdamW, and from {@link ONES} on a column of ones per tile. */
  constants(params: StepParams): readonly number[] {
    const padding = new Array<number>(ONES - ADAMW_CONSTANTS).fill(0);
    return [...this.#constants(params), ...padding, ...new Array<number>((BLOCK / TILE) * SIDE).fill(1)];
  }

  build(g: UpdateGraph, block: Block): void {
    const tiles = Math.floor(block.count / TILE);
    const rest = block.count % TILE;
    if (tiles > 0) buildTiles(g, block, 0, tiles * TILE, [SIDE, SIDE, tiles]);
    if (rest > 0) buildTiles(g, block, tiles * TILE, rest, [SIDE, Math.ceil(rest / SIDE), 1]);
  }
}

/** Where the ones begin among the constants. */
const ONES = 16;

/**
 * `count` elements of a block from `first` on, as tiles of `dims` [blocks, elements of a block, tiles]. The last row may
 * be filled up with elements that are not the parameter's: their moments stay zero.
 */
function buildTiles(
  g: UpdateGraph,
  block: Block,
  first: number,
  count: number,
  dims: readonly [number, number, number],
): void {
  const [ratio, root, scales] = block.moments as [Slab, Slab, Slab];
  const [a, b, c] = [0, 1, 2].map((i) => part(block.scratch, i * BLOCK * 4)) as [Slab, Slab, Slab];
  const ratioCodes = g.at(ratio, dims, "q8_0", first);
  const rootCodes = g.at(root, dims, "q8_0", first);
  const scale = part(scales, (first / TILE) * SIDE * 4);
  const perBlock = [SIDE, 1, dims[2]] as const;

  // unpack: c = m, b = v
  const stored = g.write(rootCodes, g.at(a, dims));
  const roots = g.put(g.mul(stored, g.at(scale, perBlock)), a);
  const deviation = g.put(g.unary("sqr", roots), a); // sqrt(v)
  g.put(g.unary("sqr", deviation), b);
  g.put(g.mul(g.write(ratioCodes, g.at(c, dims)), deviation), c);

  for (const { first: at, dims: shape } of pieces(count)) {
    g.adamw(
      g.at(block.weights, shape, "f32", first + at),
      g.at(block.gradient, shape, "f32", first + at),
      g.at(c, shape, "f32", at),
      g.at(b, shape, "f32", at),
      g.at(block.constants, [ADAMW_CONSTANTS]),
    );
  }

  // pack
  const newDeviation = g.put(g.unary("sqrt", g.at(b, dims)), a);
  const newRoots = g.put(g.unary("sqrt", newDeviation), b);
  const ones = g.at(part(block.constants, ONES * 4), [1, dims[1], dims[2]]);
  const newScale = rootMean(g, g.columnSums(newDeviation, ones), scale); // of squared roots
  g.write(g.put(g.div(newRoots, newScale), b), rootCodes);
  const divisor = g.put(g.scale(newDeviation, 1, TINY.ratio), a);
  g.write(g.put(g.div(g.at(c, dims), divisor), c), ratioCodes);

  // The scales of 32 are f16 and off by up to 0.02 %, the same way at every step: the block's scale makes up for it.
  const kept = g.write(rootCodes, g.at(a, dims));
  const excess = rootMean(g, g.columnSums(g.put(g.unary("sqr", kept), a), ones), b); // about 1
  g.put(g.div(newScale, excess), scale);
}

/** The root of sums over the elements of a block, divided by their number. */
function rootMean(g: UpdateGraph, sums: Tensor, to: Slab): Tensor {
  const means = g.put(g.scale(g.put(sums, to), 1 / SIDE, TINY.scale), to);
  return g.put(g.unary("sqrt", means), to);
}

function part(slab: Slab, bytes: number): Slab {
  return { buffer: slab.buffer, offset: slab.offset + bytes };
}

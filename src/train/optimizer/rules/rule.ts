// What an optimizer is to the updater: which moments it keeps, and how one block of a parameter is stepped. The cutting
// into slices and blocks is the same for all, so that where they fall can never change a result.

import type { Slab, UpdateGraph } from "../../../backend/ggml/update-graph.ts";
import { ConfigError } from "../../../base/errors.ts";
import { shown } from "../../../base/shown.ts";

/** Elements that are always stepped together; slices begin at multiples of it. */
export const TILE = 65_536;
/** Elements stepped at a time, in caches, where scratch memory is used; what a rule's scratch is counted in. */
export const BLOCK = 4 * TILE;
/** Kernels share rows out among threads; a tile is whole rows. */
const ROW = 1024;

/** How a region holds one moment of a parameter. */
export interface MomentFormat {
  /** As torch names it where torch has it: "exp_avg". Names the region in the ledger. */
  readonly name: string;
  /** Bytes of `elements` elements. For a multiple of {@link TILE} also where the next one begins. */
  bytes(elements: number): number;
}

/** A moment kept as it is. */
export function f32(name: string): MomentFormat {
  return { name, bytes: (elements) => elements * 4 };
}

/** What changes from step to step. */
export interface StepParams {
  /** Learning rate. */
  readonly lr: number;
  readonly weight_decay: number;
  /** 1 for the first step: for the correction of moments that began at zero. */
  readonly step: number;
  /** The gradient is multiplied by this first, for clipping; 1 if absent. */
  readonly gradScale?: number | undefined;
}

/** Part of a parameter in host memory, all of it from the first element of the block on. */
export interface Block {
  /** Elements, at most {@link BLOCK} for rules with scratch; less than whole tiles only at the end of a parameter. */
  readonly count: number;
  /** f32; changed in place. */
  readonly weights: Slab;
  /** f32, scaled already; left as it is. */
  readonly gradient: Slab;
  /** In the order and the formats of the rule; changed in place. */
  readonly moments: readonly Slab[];
  /** `scratch` times {@link BLOCK} f32 elements. */
  readonly scratch: Slab;
  /** What {@link GraphRule.constants} gave, as f32. */
  readonly constants: Slab;
}

interface Rule {
  readonly name: string;
  readonly moments: readonly MomentFormat[];
}

/** A rule whose step is a graph of ggml's operations. */
export interface GraphRule extends Rule {
  /** Blocks of f32 elements needed beside the moments. */
  readonly scratch: number;
  /** Values that the step's kernels read from memory, at most {@link MAX_CONSTANTS}. */
  constants(params: StepParams): readonly number[];
  /** Appends the step of one block. Moments of zeros are those before the first step. */
  build(g: UpdateGraph, block: Block, params: StepParams): void;
}

/** A rule whose step is the compiled loop of adamw.wat: two moments in f32. */
export interface LoopRule extends Rule {
  /** What the loop takes, from `scale` on. */
  loopConstants(params: StepParams): LoopConstants;
}

export type UpdateRule = GraphRule | LoopRule;

/** scale, beta1, 1 - beta1, beta2, 1 - beta2, keep, lr, correct1, correct2, eps: they are described in adamw.wat. */
export type LoopConstants = readonly [
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number,
];

export const MAX_CONSTANTS = 2048;

/** Elements [first, first + product of dims) of a block as a matrix: whole rows, then what is left of one. */
export interface MatrixPiece {
  readonly first: number;
  readonly dims: readonly [number, number];
}

export function pieces(count: number): MatrixPiece[] {
  const rows = Math.floor(count / ROW);
  const rest = count % ROW;
  const found: MatrixPiece[] = [];
  if (rows > 0) found.push({ first: 0, dims: [ROW, rows] });
  if (rest > 0) found.push({ first: rows * ROW, dims: [rest, 1] });
  return found;
}

/** Throws {@link ConfigError} for values that no step can be made with. */
export function checkParams({ lr, weight_decay, step, gradScale = 1 }: StepParams): void {
  const positive = { lr, weight_decay, gradScale };
  for (const [name, value] of Object.entries(positive)) {
    if (!(value >= 0 && Number.isFinite(value))) {
      throw new ConfigError(`optimizer: ${name} is ${value}, it must be a finite number of at least 0`);
    }
  }
  if (!Number.isSafeInteger(step) || step < 1) {
    throw new ConfigError(`optimizer: step is ${step}, steps are counted from 1`);
  }
}

/** A coefficient of a moving average. Throws {@link ConfigError} unless 0 <= value < 1. */
export function checkDecay(name: string, value: number): void {
  if (typeof value === "number" && value >= 0 && value < 1 && Math.fround(value) < 1) return;
  throw new ConfigError(`optimizer: ${name} is ${shown(value)}, it must be at least 0 and less than 1`);
}

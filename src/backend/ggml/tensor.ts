// A tensor as the graph builder sees it: a native header plus its type, shape and strides, known without asking C.
import { GraphError } from "../../base/errors.ts";
import type { NativeBuffer } from "./buffer.ts";
import { DTYPES, type DType } from "./dtypes.ts";

/** Dimensions in ggml's order: fastest-varying first. A [rows, columns] matrix is [columns, rows, 1, 1]. */
export type Shape = readonly [number, number, number, number];

/** Memory from byte `offset` of a buffer on. */
export interface BufferPlace {
  readonly buffer: NativeBuffer;
  readonly offset: number;
}

export class Tensor {
  readonly handle: bigint;
  readonly dtype: DType;
  readonly ne: Shape;
  /** Strides in bytes. */
  readonly nb: Shape;
  readonly name: string;
  /** Where it was bound; undefined for what a graph computes. */
  readonly place: BufferPlace | undefined;
  constructor(handle: bigint, dtype: DType, ne: Shape, nb: Shape, name: string, place?: BufferPlace) {
    this.handle = handle;
    this.dtype = dtype;
    this.ne = ne;
    this.nb = nb;
    this.name = name;
    this.place = place;
  }

  get elements(): number {
    return this.ne[0] * this.ne[1] * this.ne[2] * this.ne[3];
  }

  /** Bytes from the first element to the last, of a contiguous tensor. */
  get bytes(): number {
    return rowBytes(this.dtype, this.ne[0]) * this.ne[1] * this.ne[2] * this.ne[3];
  }

  get contiguous(): boolean {
    const nb = contiguousStrides(this.dtype, this.ne);
    // A stride of a dimension of one element is never used.
    return this.ne.every((n, i) => n === 1 || this.nb[i] === nb[i]) && this.nb[0] === nb[0];
  }

  /** Rows lie whole in memory, whatever their order. */
  get contiguousRows(): boolean {
    return this.nb[0] === DTYPES[this.dtype].bytes;
  }

  get transposed(): boolean {
    return this.nb[0] > this.nb[1];
  }

  toString(): string {
    return `${this.name || "tensor"} ${this.dtype}[${this.ne.join(", ")}]`;
  }
}

/**
 * A matrix [in, out] that is there as blocks of rows, one after another: only products with it can be computed, of each block
 * by itself. Throws GraphError where anything else is asked of it, or the blocks are no matrix.
 */
export class RowBlocks extends Tensor {
  readonly blocks: readonly Tensor[];

  constructor(blocks: readonly Tensor[], name: string) {
    const [first] = blocks;
    if (
      !first ||
      blocks.some((b) => b.dtype !== first.dtype || b.ne[0] !== first.ne[0] || b.ne[2] * b.ne[3] !== 1)
    )
      throw new GraphError(`${name}: ${blocks.join(" and ")} are not rows of one matrix`);
    const ne: Shape = [first.ne[0], blocks.reduce((sum, b) => sum + b.ne[1], 0), 1, 1];
    super(0n, first.dtype, ne, contiguousStrides(first.dtype, ne), name);
    this.blocks = blocks;
    Object.defineProperty(this, "handle", {
      get: () => {
        throw new GraphError(`${this} is there in blocks of rows: only products with it can be computed`);
      },
    });
  }
}

/** Bytes of a row of `n` elements. Throws {@link GraphError} if a row is not whole blocks. */
export function rowBytes(dtype: DType, n: number): number {
  const { block, bytes } = DTYPES[dtype];
  if (n % block !== 0) throw new GraphError(`${dtype} rows are multiples of ${block} elements, not ${n}`);
  return (n / block) * bytes;
}

export function contiguousStrides(dtype: DType, ne: Shape): Shape {
  const nb0 = DTYPES[dtype].bytes;
  const nb1 = rowBytes(dtype, ne[0]);
  return [nb0, nb1, nb1 * ne[1], nb1 * ne[1] * ne[2]];
}

/** Fills up a shape of one to four dimensions with ones. Throws {@link GraphError} for sizes no tensor can have. */
export function shape(dims: readonly number[]): Shape {
  if (dims.length < 1 || dims.length > 4)
    throw new GraphError(`tensors have 1 to 4 dimensions, not ${dims.length}`);
  for (const n of dims) {
    if (!Number.isSafeInteger(n) || n < 1) throw new GraphError(`[${dims.join(", ")}] is not a shape`);
  }
  const product = dims.reduce((a, b) => a * b, 1);
  if (!Number.isSafeInteger(product * 8)) throw new GraphError(`[${dims.join(", ")}] is too large`);
  return [dims[0] ?? 1, dims[1] ?? 1, dims[2] ?? 1, dims[3] ?? 1];
}

export function sameShape(a: Tensor, b: Tensor): boolean {
  return a.ne.every((n, i) => n === b.ne[i]);
}

/** Whether `a` can be repeated to the shape of `b`. */
export function canRepeat(a: Tensor, b: Tensor): boolean {
  return a.elements > 0 && a.ne.every((n, i) => (b.ne[i] as number) % n === 0);
}

// What a wide product is, and the face of whoever computes them outside the tensor library. Records only.
import type { DType } from "../ggml/dtypes.ts";

/** The type whose arithmetic is used; sums are f32. */
export type Arithmetic = "f32" | "bf16";

/**
 * Which product of a linear layer y = W x it is: its result, the gradient of x, or that of W; or a stack of products of
 * activations with one another, as attention has them.
 */
export type ProductKind = "result" | "input-gradient" | "weight-gradient" | "stack";

/** Several products of one shape. The matrices of C lie one after another, those of the first dimension first. */
export interface ProductStack {
  /** Matrices of C along dimensions 2 and 3. */
  readonly count: readonly [number, number];
  /** Elements from matrix to matrix along both. */
  readonly a: readonly [number, number];
  readonly b: readonly [number, number];
  /** Matrices of C for each of B, along both. */
  readonly repeat: readonly [number, number];
}

/** C [m, n] = op(A) [m, k] x op(B) [k, n], rows one after another in memory; `lda` ...: elements from row to row as stored. */
export interface WideProduct {
  /** Native headers: the node that stands for it in the graph, which is C, and its operands. */
  readonly node: bigint;
  readonly a: bigint;
  readonly b: bigint;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
  /** The operand is stored with rows and columns exchanged: A as [k, m], B as [n, k]. */
  readonly turnedA: boolean;
  readonly turnedB: boolean;
  readonly arithmetic: Arithmetic;
  /** Type of B where it is not that of the arithmetic: rows are unpacked by the tile. B is then stored turned, dense. */
  readonly packed?: DType | undefined;
  /** Absent: one product. */
  readonly stack?: ProductStack | undefined;
}

/** What a device asks; see open.ts, which makes it. */
export interface WideProducts {
  /** Bytes it takes at most beside the operands: scratch, heaps of threads, generated code. */
  readonly bytes: number;
  /** In which arithmetic a product of so many multiplications is computed here; undefined: by the tensor library. */
  arithmetic(
    kind: ProductKind,
    type: DType,
    m: number,
    n: number,
    k: number,
    /** Of a stack. */
    products?: number,
  ): Arithmetic | undefined;
  /** Computes a graph on a compute stream, its products here with so many threads. Throws LibraryError. */
  compute(backend: bigint, graph: bigint, products: readonly WideProduct[], threads: number): Promise<void>;
  dispose(): Promise<void>;
}

/** A product as the threads get it: numbers, addresses among them (they have at most 48 bits). */
export interface PlacedProduct {
  readonly node: number;
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
  readonly turnedA: boolean;
  readonly turnedB: boolean;
  readonly bf16: boolean;
  /** enum ggml_type of what is unpacked, or -1; bytes of a row of it. */
  readonly packed: number;
  readonly rowBytes: number;
  readonly stack: ProductStack;
}

export const SINGLE: ProductStack = { count: [1, 1], a: [0, 0], b: [0, 0], repeat: [1, 1] };

const FIELDS = 23;

/** Products as one array, which threads get in one piece. */
export function encodeProducts(products: readonly PlacedProduct[]): Float64Array {
  const numbers = new Float64Array(products.length * FIELDS);
  for (const [i, p] of products.entries()) {
    const { node, a, b, c, m, n, k, lda, ldb, ldc, turnedA, turnedB, bf16, packed, rowBytes, stack } = p;
    const flags = [turnedA, turnedB, bf16].map(Number);
    const strides = [...stack.count, ...stack.a, ...stack.b, ...stack.repeat];
    numbers.set([node, a, b, c, m, n, k, lda, ldb, ldc, ...flags, packed, rowBytes, ...strides], i * FIELDS);
  }
  return numbers;
}

export function countProducts(numbers: Float64Array): number {
  return numbers.length / FIELDS;
}

export function decodeProduct(numbers: Float64Array, index: number): PlacedProduct {
  const at = (field: number) => numbers[index * FIELDS + field] as number;
  const pair = (field: number) => [at(field), at(field + 1)] as const;
  return {
    ...{ node: at(0), a: at(1), b: at(2), c: at(3), m: at(4), n: at(5), k: at(6) },
    ...{ lda: at(7), ldb: at(8), ldc: at(9) },
    ...{ turnedA: at(10) !== 0, turnedB: at(11) !== 0, bf16: at(12) !== 0, packed: at(13), rowBytes: at(14) },
    stack: { count: pair(15), a: pair(17), b: pair(19), repeat: pair(21) },
  };
}

/** A part of C that one thread computes at a time. */
export interface Tiles {
  /** Rows and columns of a tile; the last ones have what is left, at most {@link REST} more. */
  readonly rows: number;
  readonly columns: number;
  readonly down: number;
  readonly across: number;
  /** Of all products of the stack. */
  readonly count: number;
}

/** Most rows of a tile. */
const ROWS = 512;
/** Bytes of unpacked weights of a tile at most, where rows are not longer than that. */
export const UNPACKED_BYTES = 2 * 2 ** 20;
/** Fewest columns of a tile: the kernels take them in blocks of 16 to 64. */
const FEWEST_COLUMNS = 16;
/**
 * A rest of so many rows or columns is added to the last tile: narrow ones are slow, and oneDNN 3.7 gets a tile of one column
 * wrong that is not dense.
 */
export const REST = 15;
/** The most columns of a tile. */
export const MOST_COLUMNS = 256 + REST;

/**
 * How a product is cut. By its shape and type alone: the edges of tiles decide how sums are rounded, so they must not depend
 * on the number of threads.
 */
export function tilesOf(p: Pick<PlacedProduct, "m" | "n" | "k" | "packed" | "bf16" | "stack">): Tiles {
  let columns = p.n >= 4096 ? 256 : 128;
  let rows = Math.min(ROWS, p.m);
  if (p.packed >= 0) {
    // What is unpacked once serves all rows.
    rows = p.m;
    const fit = Math.floor(UNPACKED_BYTES / (p.k * (p.bf16 ? 2 : 4)) / FEWEST_COLUMNS - 1) * FEWEST_COLUMNS;
    columns = Math.max(FEWEST_COLUMNS, Math.min(columns, fit));
  }
  const [down, across] = [tilesAlong(p.m, rows), tilesAlong(p.n, columns)];
  return { rows, columns, down, across, count: down * across * p.stack.count[0] * p.stack.count[1] };
}

function tilesAlong(size: number, tile: number): number {
  return Math.max(1, Math.ceil((size - REST) / tile));
}

/** Of which product of the stack a tile is, where it begins, and its size. */
export function tileAt(
  { rows, columns, down, across }: Tiles,
  p: Pick<PlacedProduct, "m" | "n">,
  index: number,
) {
  const product = Math.floor(index / (down * across));
  const rest = index % (down * across);
  const [row, column] = [Math.floor(rest / across), rest % across];
  const [i, j] = [row * rows, column * columns];
  const m = row === down - 1 ? p.m - i : rows;
  const n = column === across - 1 ? p.n - j : columns;
  return { product, i, j, m, n };
}

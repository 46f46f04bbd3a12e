// The operations of a graph. Each checks types and shapes as ggml would assert them and throws GraphError instead.
// Shapes are in ggml's order, fastest-varying first.
import { GraphError } from "../../base/errors.ts";
import { wideResult } from "../products/wide.ts";
import { DTYPES, type DType } from "./dtypes.ts";
import { GraphCore } from "./graph.ts";
import { library } from "./library.ts";
import {
  canRepeat,
  contiguousStrides,
  RowBlocks,
  rowBytes,
  type Shape,
  sameShape,
  shape,
  type Tensor,
} from "./tensor.ts";

/** Rotary embedding (RoPE; YaRN is Peng et al. 2023): rotates pairs (i, i + dims/2) of each head. */
export interface RopeParams {
  /** Leading elements of each head that are rotated. */
  readonly dims: number;
  readonly freqBase: number;
  /** 1 / factor for linear scaling and YaRN. */
  readonly freqScale: number;
  /** YaRN: weight of extrapolated frequencies; 0 turns it off. */
  readonly extFactor: number;
  /** Multiplies the rotated values. */
  readonly attnFactor: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  /** Context length the model was trained with, for YaRN. */
  readonly originalContext: number;
  /** Pairs are neighbours (GGUF llama) rather than halves (Hugging Face). */
  readonly interleaved?: boolean;
}

const ROPE_NEOX = 2;
const PREC_F32 = 10;
const UNARY = [
  "sqr",
  "sqrt",
  "log",
  "exp",
  "tanh",
  "sigmoid",
  "silu",
  "gelu_erf",
  "relu",
  "step",
  "abs",
  "sgn",
] as const;
type Unary = (typeof UNARY)[number];

/** A low-rank addition to a matrix (Hu et al. 2021): W x + scale * B (A x). */
export interface LowRank {
  /** f32 [in, r] */
  readonly a: Tensor;
  /** f32 [r, out] */
  readonly b: Tensor;
  readonly scale: number;
  /** f32 [in, tokens]: what x is multiplied by before A: 0, or 1 / (1 - p) where it stays. Absent without dropout. */
  readonly dropout?: Tensor | undefined;
}

export class Graph extends GraphCore {
  /** What linear layers add to products with these weights. */
  adapters: ReadonlyMap<Tensor, LowRank> | undefined;

  // --- element by element ---

  /** a + b, b repeated to a's shape. */
  add(a: Tensor, b: Tensor): Tensor {
    return this.#binary("add", a, b);
  }
  sub(a: Tensor, b: Tensor): Tensor {
    return this.#binary("sub", a, b);
  }
  mul(a: Tensor, b: Tensor): Tensor {
    return this.#binary("mul", a, b);
  }
  div(a: Tensor, b: Tensor): Tensor {
    return this.#binary("div", a, b);
  }

  #binary(op: "add" | "sub" | "mul" | "div", a: Tensor, b: Tensor): Tensor {
    need(a.dtype === "f32" && b.dtype === "f32", () => `${op}: both must be f32: ${a}, ${b}`);
    need(canRepeat(b, a), () => `${op}: ${b} cannot be repeated to ${a}`);
    need(a.contiguousRows && b.contiguousRows, () => `${op}: rows must be contiguous: ${a}, ${b}`);
    const { native } = library();
    return this.node(op, this.#call(native[`ggml_${op}`], a.handle, b.handle), "f32", a.ne, [a, b]);
  }

  /** a * scale + bias */
  scale(a: Tensor, scale: number, bias = 0): Tensor {
    need(a.dtype === "f32" && packed(a), () => `scale: f32 and contiguous: ${a}`);
    const { native } = library();
    return this.node("scale", this.#call(native.ggml_scale_bias, a.handle, scale, bias), "f32", a.ne, [a], {
      scale,
      bias,
    });
  }

  unary(op: Unary, a: Tensor): Tensor {
    need(a.dtype === "f32" && a.contiguous, () => `${op}: f32 and contiguous: ${a}`);
    const { native } = library();
    return this.node(op, this.#call(native[`ggml_${op}`], a.handle), "f32", a.ne, [a]);
  }

  /** silu(a) * b (Shazeer 2020, SwiGLU). */
  swiglu(gate: Tensor, up: Tensor): Tensor {
    need(
      gate.dtype === "f32" && up.dtype === "f32" && sameShape(gate, up),
      () => `swiglu: f32 of one shape: ${gate}, ${up}`,
    );
    need(packed(gate) && packed(up), () => `swiglu: contiguous: ${gate}, ${up}`);
    const { native } = library();
    return this.node("swiglu", this.#call(native.ggml_swiglu_split, gate.handle, up.handle), "f32", gate.ne, [
      gate,
      up,
    ]);
  }

  // --- rows ---

  /** x / rms(x) per row (Zhang and Sennrich 2019). */
  rmsNorm(a: Tensor, eps: number): Tensor {
    return this.#norm("rms_norm", a, eps);
  }
  /** (x - mean) / std per row, without scale and shift (Ba et al. 2016). */
  norm(a: Tensor, eps: number): Tensor {
    return this.#norm("norm", a, eps);
  }

  #norm(op: "norm" | "rms_norm", a: Tensor, eps: number): Tensor {
    need(a.dtype === "f32" && a.contiguousRows, () => `${op}: f32 with contiguous rows: ${a}`);
    need(eps >= 0 && Number.isFinite(eps), () => `${op}: eps ${eps}`);
    const { native } = library();
    return this.node(op, this.#call(native[`ggml_${op}`], a.handle, eps), "f32", a.ne, [a], { eps });
  }

  /** [n, m] -> [1, m]: the sum of each row. */
  sumRows(a: Tensor): Tensor {
    need(a.dtype === "f32" && a.contiguousRows, () => `sum_rows: f32 with contiguous rows: ${a}`);
    const { native } = library();
    return this.node(
      "sum_rows",
      this.#call(native.ggml_sum_rows, a.handle),
      "f32",
      [1, a.ne[1], a.ne[2], a.ne[3]],
      [a],
    );
  }

  /** Rows `ids` (i32, 1-D) of a matrix: [n, rows] -> f32 [n, ids]. Ids must be inside: the caller checks them. */
  getRows(table: Tensor, ids: Tensor): Tensor {
    need(
      ids.dtype === "i32" && ids.ne[1] === 1 && ids.ne[2] === 1 && ids.ne[3] === 1,
      () => `get_rows: ids i32, 1-D: ${ids}`,
    );
    need(
      table.ne[2] === 1 && table.ne[3] === 1 && table.contiguousRows,
      () => `get_rows: a matrix: ${table}`,
    );
    need(!isInteger(table.dtype), () => `get_rows: no rows of ${table}`);
    const { native } = library();
    const handle = this.#call(native.ggml_get_rows, table.handle, ids.handle);
    return this.node("get_rows", handle, "f32", [table.ne[0], ids.ne[0], 1, 1], [table, ids]);
  }

  /**
   * softmax(a * scale + mask) along rows; mask f16 or f32, [columns, >= rows]. `sinks`, f32 [a.ne[2]]: one more score for
   * every row of a head, which takes its share of the weight and gives nothing (gpt-oss).
   */
  softMax(a: Tensor, mask: Tensor | undefined, scale: number, sinks?: Tensor): Tensor {
    need(a.dtype === "f32" && a.contiguous, () => `soft_max: f32 and contiguous: ${a}`);
    if (mask) {
      need(mask.dtype === "f16" || mask.dtype === "f32", () => `soft_max: mask must be f16 or f32: ${mask}`);
      need(
        mask.contiguous && mask.ne[0] === a.ne[0] && mask.ne[1] >= a.ne[1],
        () => `soft_max: mask ${mask} for ${a}`,
      );
      need(a.ne[2] % mask.ne[2] === 0 && a.ne[3] % mask.ne[3] === 0, () => `soft_max: mask ${mask} for ${a}`);
    }
    const { native } = library();
    if (sinks) needSinks("soft_max", sinks, a.ne[2], a);
    const handle = this.#call(native.ggml_soft_max_ext, a.handle, mask?.handle ?? null, scale, 0);
    if (sinks) native.ggml_soft_max_add_sinks(handle, sinks.handle);
    return this.node("soft_max", handle, "f32", a.ne, [a, mask, sinks], { scale });
  }

  // --- matrices ---

  /**
   * weights [k, n] x activations [k, m] -> [n, m]; dimensions 2 and 3 of the first repeat over the second.
   * `precise` asks GPUs for f32 accumulation and products.
   */
  mulMat(a: Tensor, b: Tensor, options: { precise?: boolean } = {}): Tensor {
    if (a instanceof RowBlocks)
      return this.join(
        a.blocks.map((block) => this.mulMat(block, b, options)),
        0,
      );
    need(a.ne[0] === b.ne[0], () => `mul_mat: inner sizes differ: ${a}, ${b}`);
    need(b.ne[2] % a.ne[2] === 0 && b.ne[3] % a.ne[3] === 0, () => `mul_mat: ${a} does not repeat over ${b}`);
    need(b.dtype === "f32" || b.dtype === a.dtype, () => `mul_mat: second operand must be f32: ${b}`);
    need(
      a.contiguousRows && b.contiguousRows && !a.transposed && !b.transposed,
      () => `mul_mat: rows must be contiguous: ${a}, ${b}`,
    );
    need(!isInteger(a.dtype), () => `mul_mat: no products of ${a}`);
    const wide = this.wide ? wideResult(this, a, b) : undefined;
    if (wide && this.inOrder) this.expand(wide);
    if (wide) return wide;
    const { native } = library();
    const handle = this.#call(native.ggml_mul_mat, a.handle, b.handle);
    if (options.precise ?? a.dtype === "f32") native.ggml_mul_mat_set_prec(handle, PREC_F32);
    const product = this.node("mul_mat", handle, "f32", [a.ne[1], b.ne[1], b.ne[2], b.ne[3]], [a, b]);
    if (this.inOrder) this.expand(product);
    return product;
  }

  // --- attention ---

  /** Rotates q or k [head_dim, heads, tokens] by `positions` (i32 [tokens]); `factors` f32 [dims/2] divide frequencies. */
  rope(a: Tensor, positions: Tensor, p: RopeParams, factors?: Tensor): Tensor {
    need(a.dtype === "f32" && a.contiguousRows, () => `rope: f32 with contiguous rows: ${a}`);
    need(
      positions.dtype === "i32" && positions.ne[0] === a.ne[2] && positions.elements === a.ne[2],
      () => `rope: ${positions} for ${a}`,
    );
    need(
      p.dims % 2 === 0 && p.dims > 0 && p.dims <= a.ne[0],
      () => `rope: ${p.dims} rotated dimensions of ${a}`,
    );
    if (factors)
      need(factors.dtype === "f32" && factors.ne[0] >= p.dims / 2, () => `rope: factors ${factors}`);
    const { native } = library();
    const handle = this.#call(
      native.ggml_rope_ext,
      a.handle,
      positions.handle,
      factors?.handle ?? null,
      ...ropeArgs(p),
    );
    return this.node("rope", handle, "f32", a.ne, [a, positions, factors], { rope: p });
  }

  /**
   * softmax(q k^T * scale + mask) v without storing the products (Dao et al. 2022).
   * q [head_dim, tokens, heads, n], k and v [head_dim, kv, kv_heads, n] of one type, mask f16 [kv, tokens]
   * -> f32 [head_dim, heads, tokens, n]. `softcap` c: scores s become c tanh(s / c) before the mask. `sinks` f32 [heads]: see
   * {@link softMax}.
   */
  flashAttention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | undefined,
    scale: number,
    { softcap = 0, sinks }: { softcap?: number | undefined; sinks?: Tensor | undefined } = {},
  ): Tensor {
    need(
      q.dtype === "f32" && k.dtype === v.dtype && !isInteger(k.dtype),
      () => `flash_attn: q f32, k and v of one type: ${q}, ${k}, ${v}`,
    );
    need(
      q.ne[0] === k.ne[0] && k.ne[1] === v.ne[1] && k.ne[2] === v.ne[2],
      () => `flash_attn: shapes: ${q}, ${k}, ${v}`,
    );
    need(
      q.ne[2] % k.ne[2] === 0 && q.ne[3] === k.ne[3] && q.ne[3] === v.ne[3],
      () => `flash_attn: heads: ${q}, ${k}`,
    );
    need(
      q.contiguousRows && k.contiguousRows && v.contiguousRows,
      () => `flash_attn: rows must be contiguous: ${q}, ${k}, ${v}`,
    );
    if (mask) {
      need(
        mask.dtype === "f16" && mask.contiguous,
        () => `flash_attn: mask must be f16 and contiguous: ${mask}`,
      );
      need(mask.ne[0] === k.ne[1] && mask.ne[1] >= q.ne[1], () => `flash_attn: mask ${mask} for ${q}, ${k}`);
      need(
        q.ne[2] % mask.ne[2] === 0 && q.ne[3] % mask.ne[3] === 0,
        () => `flash_attn: mask ${mask} for ${q}`,
      );
    }
    need(softcap >= 0 && Number.isFinite(softcap), () => `flash_attn: softcap ${softcap}`);
    if (sinks) needSinks("flash_attn", sinks, q.ne[2], q);
    const { native } = library();
    const handle = this.#call(
      native.ggml_flash_attn_ext,
      ...([q.handle, k.handle, v.handle, mask?.handle ?? null, scale, 0, softcap] as const),
    );
    if (sinks) native.ggml_flash_attn_ext_add_sinks(handle, sinks.handle);
    native.ggml_flash_attn_ext_set_prec(handle, PREC_F32);
    const ne: Shape = [v.ne[0], q.ne[2], q.ne[1], q.ne[3]];
    return this.node("flash_attn", handle, "f32", ne, [q, k, v, mask, sinks], { scale, softcap });
  }

  // --- shape ---

  /** The same elements under another shape; contiguous tensors only. */
  reshape(a: Tensor, ...dims: number[]): Tensor {
    const ne = shape(dims);
    need(a.contiguous, () => `reshape: must be contiguous: ${a}`);
    need(
      ne[0] * ne[1] * ne[2] * ne[3] === a.elements,
      () => `reshape: ${a} has not the elements of [${ne.join(", ")}]`,
    );
    const { native } = library();
    return this.node("reshape", this.#call(native.ggml_reshape_4d, a.handle, ...ne), a.dtype, ne, [a]);
  }

  /** A window into `a`: strides and offset in bytes. */
  view(a: Tensor, dims: readonly number[], strides: readonly number[], offset: number): Tensor {
    const ne = shape(dims);
    const row = rowBytes(a.dtype, ne[0]);
    const nb: Shape = [
      DTYPES[a.dtype].bytes,
      strides[0] ?? row,
      strides[1] ?? (strides[0] ?? row) * ne[1],
      strides[2] ?? (strides[1] ?? (strides[0] ?? row) * ne[1]) * ne[2],
    ];
    need(
      [offset, ...nb].every((n) => Number.isSafeInteger(n) && n >= 0 && n % nb[0] === 0),
      () => `view: offset ${offset} and strides ${nb.join(", ")} of ${a} must be multiples of ${nb[0]}`,
    );
    const span = row + (ne[1] - 1) * nb[1] + (ne[2] - 1) * nb[2] + (ne[3] - 1) * nb[3];
    // Rows that overlap count as if they did not: so ggml asserts it.
    const last = offset + Math.max(span, row * ne[1] * ne[2] * ne[3]);
    const extent = a.nb[0] === DTYPES[a.dtype].bytes ? spanOf(a) : a.bytes;
    need(last <= extent, () => `view: bytes ${offset} to ${last} of ${a}, which has ${extent}`);
    const { native } = library();
    const handle = this.#call(native.ggml_view_4d, a.handle, ...ne, nb[1], nb[2], nb[3], offset);
    return this.node("view", handle, a.dtype, ne, [a], { offset }, nb);
  }

  /** Dimension i goes to place axes[i]. No data moves. */
  permute(a: Tensor, ...axes: [number, number, number, number]): Tensor {
    need(
      [...axes].sort().join() === "0,1,2,3",
      () => `permute: axes ${axes.join()} are not an order of 0 to 3`,
    );
    const ne = [1, 1, 1, 1] as [number, number, number, number];
    const nb = [0, 0, 0, 0] as [number, number, number, number];
    for (let i = 0; i < 4; i++) {
      ne[axes[i] as number] = a.ne[i] as number;
      nb[axes[i] as number] = a.nb[i] as number;
    }
    const { native } = library();
    return this.node(
      "permute",
      this.#call(native.ggml_permute, a.handle, ...axes),
      a.dtype,
      ne,
      [a],
      { axes },
      nb,
    );
  }

  transpose(a: Tensor): Tensor {
    return this.permute(a, 1, 0, 2, 3);
  }

  /** A contiguous copy. */
  cont(a: Tensor): Tensor {
    need(
      DTYPES[a.dtype].block === 1 || a.contiguous,
      () => `cont: quantized tensors cannot be rearranged: ${a}`,
    );
    const { native } = library();
    return this.node("cont", this.#call(native.ggml_cont, a.handle), a.dtype, a.ne, [a]);
  }

  /** The same values in another type. */
  cast(a: Tensor, dtype: DType): Tensor {
    if (a.dtype === dtype) return a;
    contiguousStrides(dtype, a.ne); // rows must be whole blocks
    need(converts(a, dtype, true), () => `cast: no conversion of ${a} to ${dtype}`);
    const { native } = library();
    return this.node("cast", this.#call(native.ggml_cast, a.handle, DTYPES[dtype].id), dtype, a.ne, [a]);
  }

  /** Writes `from` into the memory of `to`, converting the type; executes where it is expanded. */
  copy(from: Tensor, to: Tensor): Tensor {
    need(from.elements === to.elements, () => `cpy: ${from} and ${to} differ in size`);
    need(converts(from, to.dtype, to.contiguous), () => `cpy: no conversion of ${from} to ${to}`);
    const { native } = library();
    return this.node(
      "cpy",
      this.#call(native.ggml_cpy, from.handle, to.handle),
      to.dtype,
      to.ne,
      [from, to],
      {},
      to.nb,
    );
  }

  /** `a` repeated to `dims`. */
  repeat(a: Tensor, dims: readonly number[]): Tensor {
    const ne = shape(dims);
    need(a.dtype === "f32" && a.contiguousRows, () => `repeat: f32 with contiguous rows: ${a}`);
    need(
      ne.every((n, i) => n % (a.ne[i] as number) === 0),
      () => `repeat: ${a} does not repeat to [${ne.join(", ")}]`,
    );
    const { native } = library();
    return this.node("repeat", this.#call(native.ggml_repeat_4d, a.handle, ...ne), "f32", ne, [a]);
  }

  /** Joins two tensors along dimension `dim`; the others agree. */
  concat(a: Tensor, b: Tensor, dim: 0 | 1 | 2 | 3): Tensor {
    need([0, 1, 2, 3].includes(dim), () => `concat: there is no dimension ${dim}`);
    need(a.dtype === "f32" && b.dtype === "f32", () => `concat: f32: ${a}, ${b}`);
    need(
      a.ne.every((n, i) => i === dim || n === b.ne[i]),
      () => `concat: ${a} and ${b} differ beside dimension ${dim}`,
    );
    const ne = a.ne.map((n, i) => (i === dim ? n + (b.ne[i] as number) : n)) as unknown as Shape;
    const { native } = library();
    const handle = this.#call(native.ggml_concat, a.handle, b.handle, dim);
    return this.node("concat", handle, "f32", ne, [a, b], { dim });
  }

  /** Joins tensors along a dimension, pairwise: copies each element log2(n) times instead of n. */
  join(parts: readonly Tensor[], dim: 0 | 1 | 2 | 3): Tensor {
    need(parts.length > 0, () => "join: there is nothing to join");
    let level = parts;
    while (level.length > 1) {
      const next: Tensor[] = [];
      for (let i = 0; i < level.length; i += 2) {
        const [a, b] = [level[i] as Tensor, level[i + 1]];
        next.push(b ? this.concat(a, b, dim) : a);
      }
      level = next;
    }
    return level[0] as Tensor;
  }

  #call<A extends unknown[]>(fn: (context: bigint, ...args: A) => bigint, ...args: A): bigint {
    // ggml_cont, ggml_cast and the like make one header each; views of the result are made by further calls.
    this.arena.take();
    return fn(this.arena.context, ...args);
  }
}

/** Arguments of ggml_rope_ext after the tensors. */
export function ropeArgs(p: RopeParams) {
  const mode = p.interleaved ? 0 : ROPE_NEOX;
  return [
    p.dims,
    mode,
    p.originalContext,
    p.freqBase,
    p.freqScale,
    p.extFactor,
    p.attnFactor,
    p.betaFast,
    p.betaSlow,
  ] as const;
}

/** Types that are stored and moved, never multiplied. */
function isInteger(dtype: DType): boolean {
  return ["i8", "i16", "i32", "i64", "f64"].includes(dtype);
}

/** Whether there is a kernel that writes `from` as `to`: the CPU backend says yes to every pair and aborts on most. */
function converts(from: Tensor, to: DType, contiguous: boolean): boolean {
  const quantized = (dtype: DType) => DTYPES[dtype].block > 1;
  if (from.dtype === to) return !quantized(to) || (contiguous && from.contiguous);
  if (quantized(from.dtype)) return to === "f32" && contiguous && from.contiguous;
  if (quantized(to)) return !isInteger(from.dtype) && contiguous && from.contiguousRows;
  if (isInteger(from.dtype)) return from.dtype === "i32" && to === "f32";
  return !isInteger(to) || (from.dtype === "f32" && to === "i32");
}

/**
 * Throws {@link GraphError} unless the condition holds. The message is made only where it is needed: a graph is built for
 * every token, with several checks an operation.
 */
export function need(condition: boolean, problem: () => string): void {
  if (!condition) throw new GraphError(problem());
}

/** One f32 for each of `heads` heads. */
function needSinks(op: string, sinks: Tensor, heads: number, of: Tensor): void {
  need(
    sinks.dtype === "f32" && sinks.contiguous && sinks.ne[0] === heads && sinks.elements === heads,
    () => `${op}: sinks f32 [${heads}] for ${of}: ${sinks}`,
  );
}

/** Contiguous, and the strides of dimensions of one element say so too: some asserts of ggml read them. */
export function packed(a: Tensor): boolean {
  return contiguousStrides(a.dtype, a.ne).every((n, i) => n === a.nb[i]);
}

/** Bytes from a tensor's first element to the end of its last, strides and all. */
function spanOf(a: Tensor): number {
  return (
    rowBytes(a.dtype, a.ne[0]) + (a.ne[1] - 1) * a.nb[1] + (a.ne[2] - 1) * a.nb[2] + (a.ne[3] - 1) * a.nb[3]
  );
}

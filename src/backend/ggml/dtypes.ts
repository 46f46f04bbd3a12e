// The one table of element types: our name, ggml's number, block shape, and what other formats call it.
// Block sizes are compared with the library's own at load (library.ts), so the table cannot drift from it.

export interface DTypeInfo {
  /** enum ggml_type */
  readonly id: number;
  /** elements per block */
  readonly block: number;
  /** bytes per block */
  readonly bytes: number;
  /** the name in safetensors headers, where it has one */
  readonly safetensors?: string;
  /** the name torch and transformers use (`torch_dtype`), where it has one */
  readonly torch?: string;
}

export const DTYPES = {
  f32: { id: 0, block: 1, bytes: 4, safetensors: "F32", torch: "float32" },
  f16: { id: 1, block: 1, bytes: 2, safetensors: "F16", torch: "float16" },
  bf16: { id: 30, block: 1, bytes: 2, safetensors: "BF16", torch: "bfloat16" },
  i8: { id: 24, block: 1, bytes: 1, safetensors: "I8", torch: "int8" },
  i16: { id: 25, block: 1, bytes: 2, safetensors: "I16", torch: "int16" },
  i32: { id: 26, block: 1, bytes: 4, safetensors: "I32", torch: "int32" },
  i64: { id: 27, block: 1, bytes: 8, safetensors: "I64", torch: "int64" },
  f64: { id: 28, block: 1, bytes: 8, safetensors: "F64", torch: "float64" },
  q4_0: { id: 2, block: 32, bytes: 18 },
  q4_1: { id: 3, block: 32, bytes: 20 },
  q5_0: { id: 6, block: 32, bytes: 22 },
  q5_1: { id: 7, block: 32, bytes: 24 },
  q8_0: { id: 8, block: 32, bytes: 34 },
  q2_k: { id: 10, block: 256, bytes: 84 },
  q3_k: { id: 11, block: 256, bytes: 110 },
  q4_k: { id: 12, block: 256, bytes: 144 },
  q5_k: { id: 13, block: 256, bytes: 176 },
  q6_k: { id: 14, block: 256, bytes: 210 },
} as const satisfies Record<string, DTypeInfo>;

export type DType = keyof typeof DTYPES;

/** The element types weights may have in memory without quantization. */
export type FloatDType = "f32" | "f16" | "bf16";

export const DTYPE_NAMES = Object.keys(DTYPES) as DType[];

/** Bytes of `elements` values of a type whose rows are whole blocks. */
export function bytesOf(dtype: DType, elements: number): number {
  const { block, bytes } = DTYPES[dtype];
  return (elements / block) * bytes;
}

const byName = new Map<string, DType>();
for (const name of DTYPE_NAMES) {
  const row: DTypeInfo = DTYPES[name];
  byName.set(name, name);
  if (row.safetensors) byName.set(row.safetensors.toLowerCase(), name);
  if (row.torch) byName.set(row.torch, name);
}

/** Names of other libraries, transformers.js among them. */
const ALIASES: Readonly<Record<string, DType>> = { fp32: "f32", fp16: "f16", half: "f16", float: "f32" };
for (const [alias, name] of Object.entries(ALIASES)) byName.set(alias, name);

/** The type that a name from a config, a command line or a header means: "float32", "F32", "bf16", "q4_k" ... */
export function parseDType(name: string): DType | undefined {
  return byName.get(name.toLowerCase().replace(/^torch\./, ""));
}

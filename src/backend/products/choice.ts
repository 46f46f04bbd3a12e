// Which products go outside the tensor library: by kind, type and shape, with limits that were measured once on this machine.
// Never by budgets or placement, so that the same model gives the same bits wherever its weights live.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join } from "node:path";
import { DTYPE_NAMES, type DType } from "../ggml/dtypes.ts";
import { type Arithmetic, type ProductKind, REST, UNPACKED_BYTES } from "./product.ts";

/** Fewest columns of activations from which a type's products are faster there; null: none are. */
export type Limits = Readonly<Partial<Record<DType, number | null>>>;

/** Multiplications and additions of a product below which the way there and back takes too long. */
const LEAST_WORK = 2 ** 25;
/** Elements of a matrix below which its products are left alone, so that the smallest models never start threads for them. */
export const LEAST_MATRIX = 2 ** 16;
/** The same for one of a stack. */
const LEAST_OF_STACK = 2 ** 20;
/**
 * Parameters that a model has to have, for threads to be started for its products: they take tens of megabytes, which would
 * be most of what a smaller model needs. A model's own number, never a budget's.
 */
export const LEAST_PARAMETERS = 2 ** 26;
/** Fewest rows and columns of a matrix. */
const LEAST_SIDE = 64;
/** The longest row of which a tile's fewest can be unpacked. */
const LONGEST_PACKED = UNPACKED_BYTES / ((16 + REST) * 4);

/** The arithmetic for weights of a type: f16 has more digits than bf16, so it becomes f32; quantized types become bf16. */
export function arithmeticFor(type: DType, hasBf16: boolean): Arithmetic {
  return hasBf16 && type !== "f32" && type !== "f16" ? "bf16" : "f32";
}

/** Types with products. */
export function canMultiply(type: DType): boolean {
  return !["i8", "i16", "i32", "i64", "f64"].includes(type);
}

/** The rule of a device. `limits` undefined: every product that can, whatever its size. */
export function chooseArithmetic(
  { limits, hasBf16 }: { readonly limits: Limits | undefined; readonly hasBf16: boolean },
  kind: ProductKind,
  type: DType,
  m: number,
  n: number,
  k: number,
  products = 1,
): Arithmetic | undefined {
  if (!canMultiply(type)) return undefined;
  const arithmetic = arithmeticFor(type, hasBf16);
  const isPacked = type !== arithmetic;
  if (kind === "result" && isPacked && k > LONGEST_PACKED) return undefined;
  if (!limits) return arithmetic;
  const limit = limits[type];
  if (typeof limit !== "number" || m < limit || Math.min(n, k) < LEAST_SIDE) return undefined;
  const each = kind === "stack" ? m * n * k >= LEAST_OF_STACK : n * k >= LEAST_MATRIX;
  return each && m * n * k * products >= LEAST_WORK ? arithmetic : undefined;
}

/** Where limits are kept between processes. */
export function limitsFile(env: NodeJS.ProcessEnv = process.env): string {
  const cache = env.XDG_CACHE_HOME || join(os.homedir(), ".cache");
  return join(cache, "spillway", "products.json");
}

/** What was measured before under a name; nothing where there is no such file or it holds something else. */
export function readLimits(key: string, file = limitsFile()): Limits {
  const known: Record<string, number | null> = {};
  for (const [type, limit] of Object.entries(record(contents(file)[key]))) {
    const valid = limit === null || (Number.isSafeInteger(limit) && (limit as number) > 0);
    if (valid && DTYPE_NAMES.includes(type as DType)) known[type] = limit as number | null;
  }
  return known;
}

/** Keeps limits, in one piece. A cache: where it cannot be written, it is measured again. */
export function keepLimits(key: string, limits: Limits, file = limitsFile()): void {
  const temporary = `${file}.${process.pid}`;
  try {
    mkdirSync(dirname(file), { recursive: true });
    const all = { ...contents(file), [key]: { ...readLimits(key, file), ...limits } };
    writeFileSync(temporary, JSON.stringify(all, null, 1));
    renameSync(temporary, file);
  } catch {
    rmSync(temporary, { force: true });
  }
}

function contents(file: string): Record<string, unknown> {
  try {
    return record(JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return {};
  }
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

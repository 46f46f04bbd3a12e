// One product on one thread, by oneDNN's C interface (https://oneapi-src.github.io/oneDNN/v2.6 and /v3.7, which differ) or by
// the BLAS of Accelerate. Runs in threads of the crew: it gets koffi and does not load it.
import type Koffi from "koffi";
import { MOST_COLUMNS } from "./product.ts";

/** A library as find.ts describes it. */
export interface KernelLibrary {
  readonly kind: "onednn" | "accelerate";
  readonly file: string;
  readonly major: number;
}

/** C [m, n] = op(A) x op(B): addresses, elements from row to row as stored, and whether stored with rows and columns exchanged. */
export interface KernelCall {
  readonly bf16: boolean;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: number;
  readonly lda: number;
  readonly turnedA: boolean;
  readonly b: number;
  readonly ldb: number;
  readonly turnedB: boolean;
  readonly c: number;
  readonly ldc: number;
}

export interface Kernel {
  /** Computes one product. Throws Error with the library's status. */
  run(call: KernelCall): void;
  /** Whether there is a fast kernel for products of bf16. */
  readonly hasBf16: boolean;
  dispose(): void;
}

/** Primitives that are kept, with their generated code: 0.1 to 0.3 MiB each, shared by all threads. */
export const KEPT_PRIMITIVES = 32;
/** Fewer rows than this are computed faster by a generated kernel than by sgemm. */
const SGEMM_ROWS = 48;
/** oneDNN 2 has its generated kernels for dense results alone; with fewer rows than this they are worth a copy. */
const COPIED_ROWS = 64;
/** Bytes at the end of the scratch in which such results are put together: rows x columns of a tile in f32. */
export const RESULT_BYTES = COPIED_ROWS * MOST_COLUMNS * 4;

/** enum dnnl_data_type_t */
const BF16 = 2;
const F32 = 3;
/** DNNL_ARG_SRC, _WEIGHTS, _DST, _SCRATCHPAD */
const ARGUMENTS = [1, 33, 17, 80] as const;
const QUERY_SCRATCHPAD = 136;
const QUERY_NAME = 8;
const CPU = 1;
const IN_ORDER = 1;
/** Room for the structures of oneDNN 2 (dnnl_memory_desc_t has 696 bytes, dnnl_matmul_desc_t 5 of them). Bytes. */
const MEMORY_DESC = 1024;
const MATMUL_DESC = 8192;

const P = "void *";

type Fn = (...args: unknown[]) => number;
interface Primitive {
  readonly handle: bigint;
  readonly memories: readonly bigint[];
  readonly arguments_: Uint8Array;
  readonly free: () => void;
}

/** The kernel of a library; `scratch`: this thread's, whose last {@link RESULT_BYTES} are for results. */
export function makeKernel(
  koffi: typeof Koffi,
  library: KernelLibrary,
  scratch: { readonly address: number; readonly bytes: number },
): Kernel {
  return library.kind === "accelerate" ? accelerate(koffi, library) : new OneDnn(koffi, library, scratch);
}

function accelerate(koffi: typeof Koffi, { file }: KernelLibrary): Kernel {
  const [i, f] = ["int", "float"];
  const sgemm = koffi
    .load(file)
    .func("cblas_sgemm", "void", [i, i, i, i, i, i, f, P, i, P, i, f, P, i]) as unknown as Fn;
  const order = (turned: boolean) => (turned ? 112 : 111); // CblasTrans, CblasNoTrans
  return {
    hasBf16: false,
    run: ({ m, n, k, a, lda, turnedA, b, ldb, turnedB, c, ldc }) => {
      const [x, y, z] = [a, b, c].map(BigInt);
      sgemm(101, order(turnedA), order(turnedB), m, n, k, 1, x, lda, y, ldb, 0, z, ldc);
    },
    dispose: () => {},
  };
}

class OneDnn implements Kernel {
  readonly hasBf16: boolean;
  readonly #koffi: typeof Koffi;
  readonly #call: (name: string, ...args: unknown[]) => void;
  readonly #functions: Record<string, Fn>;
  readonly #old: boolean;
  readonly #engine: bigint;
  readonly #stream: bigint;
  readonly #attributes: bigint;
  readonly #scratch: { readonly address: number; readonly bytes: number };
  /** By shape, the one used last at the end. */
  readonly #primitives = new Map<string, Primitive>();

  constructor(
    koffi: typeof Koffi,
    { file, major }: KernelLibrary,
    scratch: { readonly address: number; readonly bytes: number },
  ) {
    this.#koffi = koffi;
    this.#scratch = scratch;
    this.#old = major < 3;
    const library = koffi.load(file);
    const functions: Record<string, Fn> = {};
    for (const [name, types] of Object.entries({ ...COMMON, ...(this.#old ? VERSION_2 : VERSION_3) })) {
      const [result, ...args] = types;
      functions[name] = library.func(name, result as string, args) as unknown as Fn;
    }
    this.#functions = functions;
    this.#call = (name, ...args) => {
      const status = functions[name]?.(...args);
      if (status !== 0) throw new Error(`${name} gave status ${status}`);
    };
    try {
      // The threads are the crew's, each of which computes alone; OpenMP keeps this number per thread.
      (library.func("omp_set_num_threads", "void", ["int"]) as unknown as Fn)(1);
    } catch {
      // Built without OpenMP: find.ts has looked that it is then built without threads.
    }
    this.#call("dnnl_set_primitive_cache_capacity", KEPT_PRIMITIVES);
    this.#engine = this.#made("dnnl_engine_create", CPU, 0);
    this.#stream = this.#made("dnnl_stream_create", this.#engine, IN_ORDER);
    this.#attributes = this.#made("dnnl_primitive_attr_create");
    this.#call("dnnl_primitive_attr_set_scratchpad_mode", this.#attributes, 1);
    this.hasBf16 = this.#hasFastBf16();
  }

  run(call: KernelCall): void {
    const { bf16, m, n, c, ldc } = call;
    if (!bf16 && m >= SGEMM_ROWS) {
      this.#sgemm(call);
      return;
    }
    if (!this.#old || m >= COPIED_ROWS || ldc === n || m * n * 4 > RESULT_BYTES) {
      this.#matmul(call, c, ldc);
      return;
    }
    const dense = this.#scratch.address + this.#scratch.bytes - RESULT_BYTES;
    this.#matmul(call, dense, n);
    const from = new Float32Array(this.#koffi.view(BigInt(dense), m * n * 4));
    const to = new Float32Array(this.#koffi.view(BigInt(c), ((m - 1) * ldc + n) * 4));
    for (let row = 0; row < m; row++) to.set(from.subarray(row * n, (row + 1) * n), row * ldc);
  }

  #sgemm({ m, n, k, a, lda, turnedA, b, ldb, turnedB, c, ldc }: KernelCall): void {
    const letter = (turned: boolean) => (turned ? 84 : 78); // T, N
    const [x, y, z] = [a, b, c].map(BigInt);
    this.#call("dnnl_sgemm", letter(turnedA), letter(turnedB), m, n, k, 1, x, lda, y, ldb, 0, z, ldc);
  }

  #matmul(call: KernelCall, c: number, ldc: number): void {
    const { bf16, m, n, k, lda, turnedA, ldb, turnedB } = call;
    const key = `${bf16} ${m} ${n} ${k} ${lda} ${turnedA} ${ldb} ${turnedB} ${ldc}`;
    let primitive = this.#primitives.get(key);
    if (primitive) this.#primitives.delete(key);
    else {
      const [oldest] = this.#primitives;
      if (oldest && this.#primitives.size >= KEPT_PRIMITIVES) {
        oldest[1].free();
        this.#primitives.delete(oldest[0]);
      }
      primitive = this.#primitive(call, ldc);
    }
    this.#primitives.set(key, primitive);
    const { handle, memories, arguments_ } = primitive;
    for (const [i, address] of [call.a, call.b, c].entries())
      this.#call("dnnl_memory_set_data_handle", memories[i], BigInt(address));
    this.#call("dnnl_primitive_execute", handle, this.#stream, memories.length, arguments_);
    this.#call("dnnl_stream_wait", this.#stream);
  }

  #primitive({ bf16, m, n, k, lda, turnedA, ldb, turnedB }: KernelCall, ldc: number): Primitive {
    const type = bf16 ? BF16 : F32;
    const owned: (() => void)[] = [];
    const free = () => {
      for (const step of owned.splice(0).reverse()) step();
    };
    try {
      const descs = [
        this.#desc(owned, [m, k], type, turnedA ? [1, lda] : [lda, 1]),
        this.#desc(owned, [k, n], type, turnedB ? [1, ldb] : [ldb, 1]),
        this.#desc(owned, [m, n], F32, [ldc, 1]),
      ] as const;
      const pd = this.#primitiveDesc(...descs);
      owned.push(() => this.#call("dnnl_primitive_desc_destroy", pd));
      const pad = this.#ask("dnnl_primitive_desc_query_md", pd, QUERY_SCRATCHPAD, 0);
      const needed = Number(this.#functions.dnnl_memory_desc_get_size?.(pad));
      const room = this.#scratch.bytes - RESULT_BYTES;
      if (needed > room) throw new Error(`a product needs ${needed} bytes of scratch and has ${room}`);
      const handle = this.#made("dnnl_primitive_create", pd);
      owned.push(() => this.#call("dnnl_primitive_destroy", handle));
      const scratch = BigInt(this.#scratch.address);
      const memories = [...descs, pad].map((desc, i) => {
        const memory = this.#made("dnnl_memory_create", desc, this.#engine, i === 3 ? scratch : null);
        owned.push(() => this.#call("dnnl_memory_destroy", memory));
        return memory;
      });
      // dnnl_exec_arg_t: int, padding, pointer
      const arguments_ = new Uint8Array(16 * memories.length);
      const view = new DataView(arguments_.buffer);
      for (const [i, memory] of memories.entries()) {
        view.setInt32(16 * i, ARGUMENTS[i] as number, true);
        view.setBigUint64(16 * i + 8, memory, true);
      }
      return { handle, memories, arguments_, free };
    } catch (error) {
      free();
      throw error;
    }
  }

  /** A description of a matrix: a structure in version 2, an object in version 3. */
  #desc(
    owned: (() => void)[],
    dims: readonly number[],
    type: number,
    strides: readonly number[],
  ): Uint8Array | bigint {
    const [ne, nb] = [dims, strides].map((list) => BigInt64Array.from(list, BigInt));
    if (!this.#old) {
      const desc = this.#made("dnnl_memory_desc_create_with_strides", 2, ne, type, nb);
      owned.push(() => this.#call("dnnl_memory_desc_destroy", desc));
      return desc;
    }
    const desc = new Uint8Array(MEMORY_DESC);
    this.#call("dnnl_memory_desc_init_by_strides", desc, 2, ne, type, nb);
    return desc;
  }

  #primitiveDesc(a: Uint8Array | bigint, b: Uint8Array | bigint, c: Uint8Array | bigint): bigint {
    const { dnnl_matmul_primitive_desc_create } = this.#functions;
    if (dnnl_matmul_primitive_desc_create)
      return this.#made("dnnl_matmul_primitive_desc_create", this.#engine, a, b, null, c, this.#attributes);
    const operation = new Uint8Array(MATMUL_DESC);
    this.#call("dnnl_matmul_desc_init", operation, a, b, null, c);
    return this.#made("dnnl_primitive_desc_create", operation, this.#attributes, this.#engine, null);
  }

  /** Whether it is a kernel made for bf16, and not one that only gets it right. */
  #hasFastBf16(): boolean {
    const owned: (() => void)[] = [];
    try {
      const [a, b] = [this.#desc(owned, [64, 64], BF16, [64, 1]), this.#desc(owned, [64, 64], BF16, [1, 64])];
      const pd = this.#primitiveDesc(a, b, this.#desc(owned, [64, 64], F32, [64, 1]));
      owned.push(() => this.#call("dnnl_primitive_desc_destroy", pd));
      const name = new BigUint64Array(1);
      this.#call("dnnl_primitive_desc_query", pd, QUERY_NAME, 0, name);
      const text = this.#koffi.decode(name[0] as bigint, "char", -1) as string;
      return /bf16|amx|sve|sme|neon/.test(text);
    } catch {
      return false;
    } finally {
      for (const step of owned.reverse()) step();
    }
  }

  /** Calls what makes an object: its address comes through the first argument. */
  #made(name: string, ...args: unknown[]): bigint {
    const out = new BigUint64Array(1);
    this.#call(name, out, ...args);
    return out[0] as bigint;
  }

  #ask(name: string, ...args: unknown[]): bigint {
    return this.#functions[name]?.(...args) as unknown as bigint;
  }

  dispose(): void {
    for (const { free } of this.#primitives.values()) free();
    this.#primitives.clear();
    this.#call("dnnl_primitive_attr_destroy", this.#attributes);
    this.#call("dnnl_stream_destroy", this.#stream);
    this.#call("dnnl_engine_destroy", this.#engine);
  }
}

const [I, L] = ["int", "int64_t"];
/** Functions of both versions: result, arguments. Source: dnnl.h. */
const COMMON: Record<string, readonly string[]> = {
  dnnl_set_primitive_cache_capacity: [I, I],
  dnnl_engine_create: [I, P, I, "size_t"],
  dnnl_engine_destroy: [I, P],
  dnnl_stream_create: [I, P, P, "uint32_t"],
  dnnl_stream_wait: [I, P],
  dnnl_stream_destroy: [I, P],
  dnnl_primitive_attr_create: [I, P],
  dnnl_primitive_attr_set_scratchpad_mode: [I, P, I],
  dnnl_primitive_attr_destroy: [I, P],
  dnnl_primitive_desc_query: [I, P, I, I, P],
  dnnl_primitive_desc_query_md: [P, P, I, I],
  dnnl_primitive_desc_destroy: [I, P],
  dnnl_memory_desc_get_size: ["size_t", P],
  dnnl_primitive_create: [I, P, P],
  dnnl_primitive_execute: [I, P, P, I, P],
  dnnl_primitive_destroy: [I, P],
  dnnl_memory_create: [I, P, P, P, P],
  dnnl_memory_set_data_handle: [I, P, P],
  dnnl_memory_destroy: [I, P],
  dnnl_sgemm: [I, "int8_t", "int8_t", L, L, L, "float", P, L, P, L, "float", P, L],
};
const VERSION_2: Record<string, readonly string[]> = {
  dnnl_memory_desc_init_by_strides: [I, P, I, P, I, P],
  dnnl_matmul_desc_init: [I, P, P, P, P, P],
  dnnl_primitive_desc_create: [I, P, P, P, P, P],
};
const VERSION_3: Record<string, readonly string[]> = {
  dnnl_memory_desc_create_with_strides: [I, P, I, P, I, P],
  dnnl_memory_desc_destroy: [I, P],
  dnnl_matmul_primitive_desc_create: [I, P, P, P, P, P, P, P],
};

// The one table of C functions that are called, each with its result and arguments. No logic.
// Source: ggml.h, ggml-backend.h, ggml-alloc.h and ggml-cpu.h of ggml 0.25.
import { ffi } from "./loading/ffi.ts";

// One letter per C type: p pointer, s const char*, i int, l int64_t, z size_t, f float, b bool, v void, u enum/uint32.
interface Letters {
  p: bigint;
  s: string;
  i: number;
  l: number;
  z: number;
  f: number;
  b: boolean;
  v: undefined;
  u: number;
}
const KOFFI_TYPES: Record<keyof Letters, string> = {
  p: "void *",
  s: "const char *",
  i: "int",
  l: "int64_t",
  z: "size_t",
  f: "float",
  b: "bool",
  v: "void",
  u: "uint32_t",
};

/** The structures that are passed, made once: koffi never frees a type. */
function makeStructures() {
  const koffi = ffi();
  return {
    /** `struct ggml_init_params`, passed by value. */
    initParams: koffi.struct("ggml_init_params", {
      mem_size: "size_t",
      mem_buffer: "void *",
      no_alloc: "bool",
    }),
    /** `struct ggml_threadpool_params`; 512 is GGML_MAX_N_THREADS. */
    threadpoolParams: koffi.struct("ggml_threadpool_params", {
      cpumask: koffi.array("bool", 512),
      n_threads: "int",
      prio: "int",
      poll: "uint32_t",
      strict_cpu: "bool",
      paused: "bool",
    }),
    /** `struct ggml_backend_dev_props`. */
    deviceProps: koffi.struct("ggml_backend_dev_props", {
      name: "const char *",
      description: "const char *",
      memory_free: "size_t",
      memory_total: "size_t",
      type: "int",
      device_id: "const char *",
      async: "bool",
      host_buffer: "bool",
      buffer_from_host_ptr: "bool",
      events: "bool",
      mmap_support: "bool",
    }),
    // Functions that only an address is known of.
    newThreadpool: koffi.proto("void *(void *)"),
    freeThreadpool: koffi.proto("void (void *)"),
    setThreadpool: koffi.proto("void (void *, void *)"),
    setThreads: koffi.proto("void (void *, int)"),
  };
}

let made: ReturnType<typeof makeStructures> | undefined;

/** Structures and prototypes of C. */
export function structures(): ReturnType<typeof makeStructures> {
  made ??= makeStructures();
  return made;
}

/** name: "result:arguments" in the letters above. */
const BASE = {
  ggml_version: "s:",
  ggml_commit: "s:",
  ggml_log_set: "v:pp",
  ggml_blck_size: "l:i",
  ggml_type_size: "z:i",
  ggml_type_name: "s:i",
  ggml_tensor_overhead: "z:",
  ggml_graph_overhead_custom: "z:zb",
  ggml_free: "v:p",
  ggml_reset: "v:p",
  ggml_status_to_string: "s:i",
  ggml_new_tensor_4d: "p:pillll",
  ggml_set_input: "v:p",
  ggml_set_output: "v:p",
  ggml_get_data: "p:p",
  ggml_new_graph_custom: "p:pzb",
  ggml_build_forward_expand: "v:pp",
  ggml_graph_n_nodes: "i:p",
  ggml_graph_node: "p:pi",
  ggml_graph_add_node: "v:pp",
  ggml_op_desc: "s:p",
  // operations
  ggml_view_4d: "p:ppllllzzzz",
  ggml_reshape_4d: "p:ppllll",
  ggml_permute: "p:ppiiii",
  ggml_cont: "p:pp",
  ggml_cast: "p:ppi",
  ggml_cpy: "p:ppp",
  ggml_add: "p:ppp",
  ggml_sub: "p:ppp",
  ggml_mul: "p:ppp",
  ggml_div: "p:ppp",
  ggml_scale_bias: "p:ppff",
  ggml_sqr: "p:pp",
  ggml_sqrt: "p:pp",
  ggml_log: "p:pp",
  ggml_exp: "p:pp",
  ggml_sum_rows: "p:pp",
  ggml_repeat_4d: "p:ppllll",
  ggml_repeat_back: "p:ppp",
  ggml_tanh: "p:pp",
  ggml_sigmoid: "p:pp",
  ggml_silu: "p:pp",
  ggml_silu_back: "p:ppp",
  ggml_gelu_erf: "p:pp",
  ggml_relu: "p:pp",
  ggml_step: "p:pp",
  ggml_abs: "p:pp",
  ggml_sgn: "p:pp",
  ggml_swiglu_split: "p:ppp",
  ggml_norm: "p:ppf",
  ggml_rms_norm: "p:ppf",
  ggml_rms_norm_back: "p:pppf",
  ggml_mul_mat: "p:ppp",
  ggml_mul_mat_set_prec: "v:pi",
  ggml_out_prod: "p:ppp",
  ggml_get_rows: "p:ppp",
  ggml_get_rows_back: "p:pppp",
  ggml_set_rows: "p:pppp",
  ggml_acc_inplace: "p:pppzzzz",
  ggml_fill_inplace: "p:ppf",
  ggml_arange: "p:pfff",
  ggml_argmax: "p:pp",
  ggml_concat: "p:pppi",
  ggml_soft_max_ext: "p:pppff",
  ggml_soft_max_add_sinks: "v:pp",
  ggml_soft_max_ext_back: "p:pppff",
  ggml_rope_ext: "p:ppppiiiffffff",
  ggml_rope_ext_back: "p:ppppiiiffffff",
  ggml_flash_attn_ext: "p:pppppfff",
  ggml_flash_attn_ext_add_sinks: "v:pp",
  ggml_flash_attn_ext_set_prec: "v:pi",
  ggml_opt_step_adamw: "p:pppppp",
  ggml_opt_step_sgd: "p:pppp",
  // graph allocator
  ggml_gallocr_new: "p:p",
  ggml_gallocr_free: "v:p",
  ggml_gallocr_reserve: "b:pp",
  ggml_gallocr_reserve_n_size: "v:ppppp",
  ggml_gallocr_alloc_graph: "b:pp",
  ggml_gallocr_get_buffer_size: "z:pi",
  // buffers
  ggml_backend_buft_alloc_buffer: "p:pz",
  ggml_backend_buft_get_alignment: "z:p",
  ggml_backend_buft_get_max_size: "z:p",
  ggml_backend_buft_is_host: "b:p",
  ggml_backend_buft_name: "s:p",
  ggml_backend_cpu_buffer_from_ptr: "p:pz",
  ggml_backend_buffer_free: "v:p",
  ggml_backend_buffer_get_base: "p:p",
  ggml_backend_buffer_clear: "v:pu",
  ggml_backend_buffer_set_usage: "v:pi",
  ggml_backend_tensor_alloc: "i:ppp",
  ggml_backend_tensor_set: "v:ppzz",
  ggml_backend_tensor_get: "v:ppzz",
  ggml_backend_tensor_get_2d: "v:ppzzzzz",
  ggml_backend_tensor_memset: "v:puzz",
  ggml_backend_tensor_set_async: "v:pppzz",
  ggml_backend_tensor_copy: "v:pp",
  // backends, devices
  ggml_backend_free: "v:p",
  ggml_backend_synchronize: "v:p",
  ggml_backend_graph_compute: "i:pp",
  ggml_backend_dev_init: "p:pp",
  ggml_backend_dev_type: "i:p",
  ggml_backend_dev_get_props: "v:pp",
  ggml_backend_dev_buffer_type: "p:p",
  ggml_backend_dev_host_buffer_type: "p:p",
  ggml_backend_dev_supports_op: "b:pp",
  ggml_backend_dev_backend_reg: "p:p",
  ggml_backend_reg_name: "s:p",
  ggml_backend_reg_get_proc_address: "p:ps",
} as const;

/** Functions of the registry library (libggml). */
const REGISTRY = {
  ggml_backend_load: "p:s",
  ggml_backend_dev_count: "z:",
  ggml_backend_dev_get: "p:z",
} as const;

type ResultOf<S extends string> = S extends `${infer R extends keyof Letters}:${string}` ? Letters[R] : never;
type ArgsOf<S extends string> = S extends `${string}:${infer A}` ? ArgList<A> : never;
type ArgList<A extends string> = A extends `${infer L extends keyof Letters}${infer Rest}`
  ? [Letters[L] | (L extends "p" ? ArrayBufferView | null : never), ...ArgList<Rest>]
  : [];
/** A C function; `async` runs it on a thread of libuv's pool. */
type NativeFunction<S extends string> = ((...args: ArgsOf<S>) => ResultOf<S>) & {
  async: (...args: [...ArgsOf<S>, (error: unknown, result: ResultOf<S>) => void]) => void;
};
type Table = typeof BASE & typeof REGISTRY;
export type Native = { [K in keyof Table]: NativeFunction<Table[K]> } & {
  ggml_init: (params: { mem_size: number; mem_buffer: null; no_alloc: boolean }) => bigint | null;
};

interface Library {
  func(name: string, result: unknown, args: unknown[]): unknown;
}

/** Binds every function of the table. Throws koffi's error if the library lacks one. */
export function bind(base: Library, registry: Library): Native {
  const native: Record<string, unknown> = {};
  const add = (library: Library, table: Record<string, string>) => {
    for (const [name, signature] of Object.entries(table)) {
      const [result, args] = signature.split(":") as [keyof Letters, string];
      const argTypes = [...args].map((letter) => KOFFI_TYPES[letter as keyof Letters]);
      native[name] = library.func(name, KOFFI_TYPES[result], argTypes);
    }
  };
  add(base, BASE);
  add(registry, REGISTRY);
  native.ggml_init = base.func("ggml_init", "void *", [structures().initParams]);
  return native as unknown as Native;
}

// Loads the tensor library once per process: base, registry, the best CPU backend; GPU backends only when asked for,
// because a GPU driver costs start-up time and memory that a CPU run should not pay.
import koffi, { type LibraryHandle } from "koffi";
import { LibraryError } from "../errors.ts";
import { bind, type Native } from "./declarations.ts";
import { discover, GGML_VERSION, installCommand, type LibraryFolder } from "./discover.ts";
import { DTYPE_NAMES, DTYPES } from "./dtypes.ts";

export interface Library {
  readonly native: Native;
  readonly version: string;
  readonly commit: string;
  readonly folders: readonly LibraryFolder[];
  /** The CPU backend that scored best, a file path. */
  readonly cpuBackend: string;
  /** Loads the GPU backends found beside the library; a second call does nothing. */
  loadGpuBackends(): void;
}

let loaded: Library | undefined;

/** The library; loads it on the first call. Throws {@link LibraryError} with the command that installs it. */
export function library(): Library {
  loaded ??= load(discover());
  return loaded;
}

/** Whether an installed library can be found, without loading it. */
export function libraryFound(): boolean {
  return loaded !== undefined || discover().length > 0;
}

function load(folders: readonly LibraryFolder[]): Library {
  const main = folders.find((f) => f.cpu.length > 0);
  if (!main) {
    const override = process.env.SPILLWAY_GGML_DIR;
    throw new LibraryError(
      override
        ? `SPILLWAY_GGML_DIR=${override} holds no ggml libraries (libggml-base, libggml and libggml-cpu are needed)`
        : `the tensor library is not installed for ${process.platform}-${process.arch}; try: ${installCommand()}`,
    );
  }
  let native: Native;
  let registry: LibraryHandle;
  try {
    const base = koffi.load(main.base, { global: true });
    registry = koffi.load(main.registry, { global: true });
    native = bind(base, registry);
    // The log callback may run on any thread, where JavaScript cannot; this harmless function takes its place.
    if (!process.env.SPILLWAY_GGML_LOG) native.ggml_log_set(base.symbol("ggml_fp16_to_fp32") as bigint, null);
  } catch (cause) {
    throw new LibraryError(`${main.dir}: the tensor library could not be loaded: ${message(cause)}`, {
      cause,
    });
  }
  const version = native.ggml_version();
  if (!sameMinor(version, GGML_VERSION)) {
    throw new LibraryError(
      `${main.dir} holds ggml ${version}, Spillway needs ${GGML_VERSION}; try: ${installCommand()}`,
    );
  }
  checkDTypes(native);
  const cpuBackend = bestCpuBackend(main.cpu);
  if (!native.ggml_backend_load(cpuBackend)) {
    throw new LibraryError(`${cpuBackend}: the CPU backend could not be loaded`);
  }
  let gpuLoaded = false;
  return {
    native,
    version,
    commit: native.ggml_commit(),
    folders,
    cpuBackend,
    loadGpuBackends() {
      if (gpuLoaded) return;
      gpuLoaded = true;
      const seen = new Set<string>();
      for (const folder of folders) {
        for (const [backend, path] of Object.entries(folder.gpu)) {
          if (seen.has(backend)) continue;
          seen.add(backend);
          // A backend whose driver is absent fails to load; the devices that do exist are what counts.
          native.ggml_backend_load(path);
        }
      }
    },
  };
}

/** Patch releases share the ABI; a different minor version may not. */
function sameMinor(a: string, b: string): boolean {
  const minor = (v: string) => v.split(".").slice(0, 2).join(".");
  return minor(a) === minor(b);
}

function checkDTypes(native: Native): void {
  for (const name of DTYPE_NAMES) {
    const { id, block, bytes } = DTYPES[name];
    const actual = { block: Number(native.ggml_blck_size(id)), bytes: Number(native.ggml_type_size(id)) };
    if (actual.block !== block || actual.bytes !== bytes) {
      throw new LibraryError(
        `the library's ${name} has ${actual.bytes} bytes per ${actual.block} elements, expected ${bytes} per ${block}`,
      );
    }
  }
}

/** The backend that says it fits this CPU best (0: cannot run here), as ggml itself chooses. */
function bestCpuBackend(paths: readonly string[]): string {
  let best: { path: string; score: number } | undefined;
  for (const path of paths) {
    let score = 0;
    try {
      const candidate = koffi.load(path);
      try {
        score = (candidate.func("ggml_backend_score", "int", []) as () => number)();
      } catch {
        score = 1; // a build with a single CPU backend exports no score
      } finally {
        candidate.unload();
      }
    } catch {
      continue;
    }
    if (score > (best?.score ?? 0)) best = { path, score };
  }
  if (!best) throw new LibraryError(`none of the CPU backends runs on this CPU: ${paths.join(", ")}`);
  return best.path;
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Runs a native call on a thread of libuv's pool. */
export function onThread<A extends unknown[], R>(
  fn: { async: (...args: [...A, (error: unknown, result: R) => void]) => void },
  ...args: A
): Promise<R> {
  return new Promise((resolve, reject) => {
    fn.async(...args, (error, result) => (error ? reject(error) : resolve(result)));
  });
}

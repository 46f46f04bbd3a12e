// Loads the tensor library once per process: base, registry, the best CPU backend; GPU backends only when asked for,
// because a GPU driver costs start-up time and memory that a CPU run should not pay.
import { availableParallelism } from "node:os";
import type { LibraryHandle } from "koffi";
import { LibraryError } from "../../base/errors.ts";
import { bind, type Native } from "./declarations.ts";
import { type Discovery, discover, GGML_VERSION, installCommand, type LibraryFolder } from "./discover.ts";
import { DTYPE_NAMES, DTYPES } from "./dtypes.ts";
import { bestCpuBackend } from "./loading/cpu-backend.ts";
import { ffi } from "./loading/ffi.ts";
import { loadNeeds } from "./loading/needed.ts";
import { tryThreads, whyFewer } from "./loading/threads.ts";

export interface Library {
  readonly native: Native;
  readonly version: string;
  readonly commit: string;
  readonly folders: readonly LibraryFolder[];
  /** Folders and GPU backends that were found and not loaded, each with the reason and what to do. */
  readonly refused: readonly string[];
  /** The CPU backend that scored best, a file path. */
  readonly cpuBackend: string;
  /** Loads the GPU backends found beside the library; a second call does nothing. */
  loadGpuBackends(): void;
}

/** What the driver of a GPU starts beside a thread for every core. */
const DRIVER_THREADS = 8;

let loaded: Library | undefined;

/** The library; loads it on the first call. Throws {@link LibraryError} with the command that installs it. */
export function library(): Library {
  loaded ??= load(discover());
  return loaded;
}

/** Whether an installed library can be found, without loading it. */
export function libraryFound(): boolean {
  return loaded !== undefined || discover().folders.length > 0;
}

function load({ folders, refused }: Discovery): Library {
  const main = folders.find((f) => f.cpu.length > 0);
  if (!main) throw new LibraryError(whyMissing(refused));
  const koffi = ffi();
  let native: Native;
  let registry: LibraryHandle;
  try {
    for (const file of [main.base, main.registry]) {
      const problem = loadNeeds(file);
      if (problem) throw new Error(`${file}: ${problem}`);
    }
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
  if (!cpuBackend)
    throw new LibraryError(`none of the CPU backends runs on this CPU: ${main.cpu.join(", ")}`);
  if (!native.ggml_backend_load(cpuBackend)) {
    throw new LibraryError(`${cpuBackend}: the CPU backend could not be loaded`);
  }
  let gpuLoaded = false;
  const notLoaded = refused.map(({ source, reason }) => `${source} is not used: ${reason}`);
  return {
    native,
    version,
    commit: native.ggml_commit(),
    folders,
    refused: notLoaded,
    cpuBackend,
    loadGpuBackends() {
      if (gpuLoaded) return;
      gpuLoaded = true;
      // Drivers start threads of their own, and end the process where they get none.
      const threads = availableParallelism() + DRIVER_THREADS;
      if (folders.some(({ gpu }) => Object.keys(gpu).length > 0) && tryThreads(threads) < threads) {
        notLoaded.push(`GPUs are not used: their drivers may need ${threads} more threads (${whyFewer()})`);
        return;
      }
      const seen = new Set<string>();
      for (const folder of folders) {
        for (const [backend, path] of Object.entries(folder.gpu)) {
          if (seen.has(backend)) continue;
          const problem = loadNeeds(path);
          if (problem) {
            notLoaded.push(`the ${backend} backend of ${folder.source} is not used: ${problem}`);
            continue;
          }
          seen.add(backend);
          // A backend whose driver is absent fails to load; the devices that do exist are what counts.
          native.ggml_backend_load(path);
        }
      }
    },
  };
}

/** Why there is no library, with what to do. */
function whyMissing(refused: Discovery["refused"]): string {
  if (refused.length > 0) {
    return `the tensor library must not be loaded: ${refused.map(({ source, reason }) => `${source}: ${reason}`).join("; ")}`;
  }
  const override = process.env.SPILLWAY_GGML_DIR;
  return override
    ? `SPILLWAY_GGML_DIR=${override} holds no ggml libraries (libggml-base, libggml and libggml-cpu are needed)`
    : `the tensor library is not installed for ${process.platform}-${process.arch}; try: ${installCommand()}`;
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

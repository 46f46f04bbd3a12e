// What doctor looks at: library, devices, memory, threads, disk. Finds out and says what is missing; prints nothing.
// Works where the tensor library is absent, which is when it is needed most.
import { existsSync } from "node:fs";
import os from "node:os";
import { resolve } from "node:path";
import { installCommand, PACKAGE_VERSION, packagesFor } from "../../backend/ggml/discover.ts";
import { ffi } from "../../backend/ggml/loading/ffi.ts";
import { AbortError } from "../../base/errors.ts";
import { defaultDepth, poolThreads } from "../../memory/io/io-turns.ts";
import { defaultCpuBudget, memoryLimits, threadCount } from "../../memory/limits.ts";
import { version } from "../installation.ts";

/** The tensor library as it was found. */
export interface LibraryFinding {
  readonly version: string;
  readonly commit: string;
  /** Folders with their npm package, or the variable that named them. */
  readonly folders: readonly { readonly dir: string; readonly source: string }[];
  /** File of the CPU backend in use. */
  readonly cpu_backend: string;
  /** Folders and backends that were found and are not used, each with the reason. */
  readonly refused: readonly string[];
}

export interface DeviceFinding {
  readonly name: string;
  readonly kind: "cpu" | "gpu";
  readonly description: string;
  /** Bytes; 0 where the driver does not say. */
  readonly memory_free: number;
  readonly memory_total: number;
}

export interface ProductsFinding {
  /** "oneDNN 3.7.2" */
  readonly name: string;
  readonly file: string;
  /** What SPILLWAY_DNNL says: off, auto or all. */
  readonly mode: string;
  /** Type of the weights -> fewest columns of activations from which on it is faster; null: never. Measured when needed. */
  readonly from_columns: Readonly<Record<string, number | null>>;
}

/** Everything doctor says. Sizes in bytes, rates in bytes per second. */
export interface Findings {
  readonly spillway: string;
  readonly platform: string;
  readonly node: string;
  readonly library: LibraryFinding | null;
  readonly devices: readonly DeviceFinding[];
  readonly threads: number;
  /** What computes wide products on the CPU; null where the tensor library computes everything. */
  readonly products: ProductsFinding | null;
  readonly memory: {
    readonly total: number;
    readonly available: number;
    readonly limit: { readonly bytes: number; readonly used: number; readonly source: string } | null;
    /** What Spillway takes at most if --cpu is not given. */
    readonly default_budget: number;
  };
  readonly pool: { readonly threads: number; readonly reads_in_flight: number };
  readonly disk: {
    readonly path: string;
    readonly bytes_per_second: number | null;
    /** Past the page cache; null where it was not measured. */
    readonly direct: boolean | null;
    /** Why it was not measured. */
    readonly problem: string | null;
  };
  /** What is not there, most needed first, with what to do about it. */
  readonly missing: readonly { readonly what: string; readonly do: string; readonly needed: boolean }[];
}

/** Looks at the machine. `folder`: where to measure the disk; undefined: it is not measured. Throws AbortError alone. */
export async function examine(folder: string | undefined, signal: AbortSignal): Promise<Findings> {
  const missing: { what: string; do: string; needed: boolean }[] = [];
  const found = await findLibrary();
  if ("problem" in found) missing.push({ what: found.problem, do: found.remedy, needed: true });
  const loaded = "problem" in found ? undefined : found;
  if (loaded && !loaded.devices.some(({ kind }) => kind === "gpu")) {
    missing.push(...gpuHints().map((hint) => ({ ...hint, needed: false })));
  }
  const products = loaded ? await findProducts(missing) : null;
  const limits = memoryLimits();
  const limit = limits.limit && {
    bytes: limits.limit.limit,
    used: limits.limit.used,
    source: limits.limit.source,
  };
  return {
    spillway: version(),
    platform: `${process.platform}-${process.arch}, ${os.type()} ${os.release()}`,
    node: process.version,
    library: loaded?.library ?? null,
    devices: loaded?.devices ?? [],
    threads: threadCount(),
    products,
    memory: {
      total: limits.total,
      available: limits.available,
      limit: limit ?? null,
      default_budget: defaultCpuBudget(limits),
    },
    pool: { threads: poolThreads(), reads_in_flight: defaultDepth() },
    disk: await measureDisk(folder, loaded !== undefined, signal),
    missing,
  };
}

type LibraryOutcome =
  | { readonly library: LibraryFinding; readonly devices: readonly DeviceFinding[] }
  | { readonly problem: string; readonly remedy: string };

/** Loads the binding, then the library: each is an optional download with a remedy of its own. */
async function findLibrary(): Promise<LibraryOutcome> {
  try {
    ffi();
  } catch (error) {
    const [problem = "", remedy = installCommand()] = (error as Error).message.split("; try: ");
    return { problem, remedy };
  }
  try {
    const { library } = await import("../../backend/ggml/library.ts");
    const { listDevices } = await import("../../backend/ggml/device.ts");
    const { version, commit, folders, cpuBackend, refused } = library();
    const devices = listDevices(); // which loads the backends of GPUs
    return {
      library: {
        version,
        commit,
        folders: folders.map(({ dir, source }) => ({ dir, source })),
        cpu_backend: cpuBackend,
        refused: [...refused],
      },
      devices: devices.map(({ name, kind, description, memoryFree, memoryTotal }) => ({
        name,
        kind,
        description,
        memory_free: memoryFree,
        memory_total: memoryTotal,
      })),
    };
  } catch (error) {
    const [problem = ""] = (error instanceof Error ? error.message : String(error)).split("; try: ");
    const override = process.env.SPILLWAY_GGML_DIR;
    const remedy = override ? "unset SPILLWAY_GGML_DIR, or point it at such a folder" : installCommand();
    return { problem, remedy };
  }
}

/** The library of wide products; what is missing is entered. */
async function findProducts(
  missing: { what: string; do: string; needed: boolean }[],
): Promise<ProductsFinding | null> {
  const { findProductLibrary, productInstallCommand, productMode } = await import(
    "../../backend/products/find.ts"
  );
  const { measuredLimits } = await import("../../backend/products/open.ts");
  const { library, refused } = findProductLibrary();
  if (library) {
    const { name, file } = library;
    return { name, file, mode: productMode(), from_columns: { ...measuredLimits(library) } };
  }
  const command = productInstallCommand();
  const why = refused.length > 0 ? ` (${refused.join("; ")})` : "";
  const what = `no oneDNN: prompts, batches and training take 1.5 to 3 times as long on the CPU${why}`;
  if (command) missing.push({ what, do: command, needed: false });
  return null;
}

/** What may be missing for a GPU. Nobody but the user knows which card is in the machine. */
function gpuHints(): { what: string; do: string }[] {
  const cuda = packagesFor().find((name) => name.includes("cuda"));
  const hints: { what: string; do: string }[] = [];
  if (cuda) {
    const nvidia = existsSync("/proc/driver/nvidia/version");
    hints.push({
      what: nvidia ? "an NVIDIA driver is there, but no CUDA backend" : "no CUDA backend (for NVIDIA GPUs)",
      do: `npm install ${cuda}@${PACKAGE_VERSION}`,
    });
  }
  if (process.platform === "linux") {
    hints.push({
      what: "no Vulkan device (AMD, Intel and NVIDIA GPUs)",
      do:
        "install the GPU's driver. Without a GPU: apt-get install mesa-vulkan-drivers libvulkan1, and " +
        "GGML_VK_VISIBLE_DEVICES=0 in the environment, give a slow device in software, for trying things out",
    });
  }
  return hints;
}

async function measureDisk(
  folder: string | undefined,
  hasLibrary: boolean,
  signal: AbortSignal,
): Promise<Findings["disk"]> {
  const path = resolve(folder ?? ".");
  const nothing = { path, bytes_per_second: null, direct: null };
  if (folder === undefined) return { ...nothing, problem: "not asked for" };
  if (!hasLibrary) return { ...nothing, problem: "needs the tensor library, whose memory is read into" };
  try {
    const { diskSpeed } = await import("../disk-speed.ts");
    const { bytesPerSecond, direct } = await diskSpeed(path, signal);
    return { path, bytes_per_second: bytesPerSecond, direct, problem: null };
  } catch (error) {
    if (error instanceof AbortError) throw error;
    return { ...nothing, problem: error instanceof Error ? error.message : String(error) };
  }
}

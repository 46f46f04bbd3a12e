// Looks for a library of fast matrix products on this machine: oneDNN in the folders of the system's loader, or macOS's own.
// Found like the backend of a GPU: what is there is used if nobody else may write it, and nothing is lost without.
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, isAbsolute, join } from "node:path";
import { ffi } from "../ggml/loading/ffi.ts";
import { loadNeeds } from "../ggml/loading/needed.ts";
import { whyAnyUntrusted } from "../ggml/loading/trust.ts";
import type { KernelLibrary } from "./kernel.ts";

/** A library that can be used. */
export interface ProductLibrary extends KernelLibrary {
  /** "oneDNN 3.7.2" */
  readonly name: string;
}

export interface ProductFinding {
  readonly library?: ProductLibrary | undefined;
  /** What was found and is not used, each with the reason. */
  readonly refused: readonly string[];
}

/** Major versions whose interface is known. */
const MAJORS = [3, 2];
/** `cpu_runtime` of dnnl_version_t: one thread, or OpenMP, whose number of threads each of ours can set for itself. */
const SEQUENTIAL = 1;
const OPENMP = 2;
const ACCELERATE = "/System/Library/Frameworks/Accelerate.framework/Accelerate";

/** What the environment says: `SPILLWAY_DNNL=off`: never; `all`: every product that can, for tests; else where it is faster. */
export function productMode(env: NodeJS.ProcessEnv = process.env): "off" | "auto" | "all" {
  const value = env.SPILLWAY_DNNL;
  return value === "off" || value === "all" ? value : "auto";
}

/** The command that installs such a library here; undefined where none is known or none is needed. */
export function productInstallCommand(): string | undefined {
  if (process.platform === "darwin") return "brew install onednn";
  if (process.platform !== "linux") return undefined;
  if (existsSync("/usr/bin/dnf")) return "dnf install onednn";
  // Debian 12 and Ubuntu 22.04 have version 2; later releases name the package after the minor version.
  return `apt-get install "$(apt-cache pkgnames libdnnl | grep -E '^libdnnl[0-9.]+$' | sort -V | tail -n 1)"`;
}

let found: ProductFinding | undefined;

/** The library of this machine, looked for once. Loads it to ask for its version. */
export function findProductLibrary(): ProductFinding {
  found ??= search(process.env.SPILLWAY_DNNL_DIR);
  return found;
}

/** As {@link findProductLibrary}; `override`: the one folder to look in. */
export function search(override: string | undefined): ProductFinding {
  const refused: string[] = [];
  if (override !== undefined && !isAbsolute(override)) {
    return { refused: [`SPILLWAY_DNNL_DIR=${override} is relative: name an absolute folder`] };
  }
  const folders = override === undefined ? loaderFolders() : [override];
  if (override === undefined && process.platform === "darwin" && process.arch === "arm64") {
    return { library: accelerate(), refused };
  }
  for (const file of candidates(folders)) {
    const outcome = inspect(file);
    if ("name" in outcome) return { library: outcome, refused };
    refused.push(`${file} is not used: ${outcome.problem}`);
  }
  if (override === undefined && process.platform === "darwin") return { library: accelerate(), refused };
  return { refused };
}

/** Part of the system, and in no file: its loader keeps it in a cache. */
function accelerate(): ProductLibrary {
  return { kind: "accelerate", file: ACCELERATE, major: 0, name: "Accelerate" };
}

/** Files of oneDNN, the newest first; one that several names lead to once. */
function candidates(folders: readonly string[]): string[] {
  const files = new Map<string, number>();
  for (const folder of folders) {
    for (const name of names(folder)) {
      const match = /^libdnnl\.so\.(\d+)(?:\.(\d+))?|^libdnnl\.(\d+)(?:\.(\d+))?[.\d]*\.dylib$/.exec(name);
      const [major, minor] = [match?.[1] ?? match?.[3], match?.[2] ?? match?.[4]].map(Number) as [
        number,
        number,
      ];
      if (!MAJORS.includes(major)) continue;
      const file = real(join(folder, name));
      const rank = major * 1000 + (Number.isFinite(minor) ? minor : 0);
      files.set(file, Math.max(rank, files.get(file) ?? 0));
    }
  }
  return [...files].sort(([, a], [, b]) => b - a).map(([file]) => file);
}

function inspect(file: string): ProductLibrary | { readonly problem: string } {
  const untrusted = whyAnyUntrusted([file]) ?? loadNeeds(file);
  if (untrusted) return { problem: untrusted };
  try {
    const koffi = ffi();
    const library = koffi.load(file);
    // dnnl_version_t: three ints, a pointer, the runtimes of CPU and GPU
    const version = library.func("dnnl_version", "void *", [])() as bigint;
    const [major, minor, patch] = [0, 4, 8].map((at) => koffi.decode(version, at, "int") as number);
    const runtime = koffi.decode(version, 24, "uint32_t") as number;
    if (!MAJORS.includes(major as number)) return { problem: `version ${major} is not known` };
    if (runtime === OPENMP) library.func("omp_set_num_threads", "void", ["int"]);
    else if (runtime !== SEQUENTIAL) {
      return { problem: "it was built to start threads of its own (neither OpenMP nor sequential)" };
    }
    return { kind: "onednn", file, major: major as number, name: `oneDNN ${major}.${minor}.${patch}` };
  } catch (error) {
    return { problem: (error instanceof Error ? error.message : String(error)).split("\n")[0] as string };
  }
}

/** Where the system's loader looks for libraries, and Homebrew's folders on macOS. */
function loaderFolders(): string[] {
  if (process.platform === "darwin") return ["/opt/homebrew/lib", "/usr/local/lib"];
  if (process.platform !== "linux") return [];
  const triple = process.arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
  const usual = [
    "/usr/local/lib",
    `/usr/lib/${triple}`,
    `/lib/${triple}`,
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
  ];
  return [...new Set([...configured("/etc/ld.so.conf"), ...usual].map(real))];
}

/** Folders that ld.so.conf(5) names, and the files that it includes. */
function configured(file: string, depth = 0): string[] {
  if (depth > 4 || !existsSync(file)) return [];
  return readFileSync(file, "utf8")
    .split("\n")
    .map((line) => line.replace(/#.*/, "").trim())
    .flatMap((line) => {
      const pattern = /^include\s+(\S+)$/.exec(line)?.[1];
      if (pattern === undefined) return isAbsolute(line) ? [line] : [];
      const end = basename(pattern).replace(/^\*/, "");
      const folder = dirname(isAbsolute(pattern) ? pattern : join(dirname(file), pattern));
      const included = names(folder).filter((name) => name.endsWith(end));
      return included.toSorted().flatMap((name) => configured(join(folder, name), depth + 1));
    });
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

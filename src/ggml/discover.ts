// Where the tensor library's files are: SPILLWAY_GGML_DIR, or the optional npm packages. Finds, does not load.
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** The exact version of the packages and of the library in them. */
export const PACKAGE_VERSION = "3.22.1";
export const GGML_VERSION = "0.25.1";

/** Packages per platform, most capable first. Those marked with a GPU add its backend to the CPU's. */
const PACKAGES: Record<string, readonly string[]> = {
  "linux-x64": ["linux-x64-cuda", "linux-x64-vulkan", "linux-x64"],
  "linux-arm64": ["linux-arm64"],
  "win32-x64": ["win-x64-cuda", "win-x64-vulkan", "win-x64"],
  "win32-arm64": ["win-arm64"],
  "darwin-arm64": ["mac-arm64-metal"],
  "darwin-x64": ["mac-x64"],
};

/** One folder of library files. */
export interface LibraryFolder {
  readonly dir: string;
  /** The npm package, or "SPILLWAY_GGML_DIR". */
  readonly source: string;
  readonly base: string;
  readonly registry: string;
  /** CPU backends, one per instruction set. */
  readonly cpu: readonly string[];
  /** Backends of GPUs by name: cuda, vulkan, metal, hip, sycl. */
  readonly gpu: Readonly<Record<string, string>>;
}

const FILE = /^(?:lib)?ggml(-[a-z0-9_.-]+?)?(\.[a-z]+)?(?:\.v?[\d.]+)?\.(?:so|dll|dylib)(?:\.\d+)*$/i;
const GPU_BACKENDS = ["cuda", "hip", "metal", "vulkan", "sycl"];

/** What of the library is in a folder, or undefined if it is not one of the library's folders. */
export function inspectFolder(dir: string, source: string): LibraryFolder | undefined {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch {
    return undefined;
  }
  let base: string | undefined;
  let registry: string | undefined;
  const cpu: string[] = [];
  const gpu: Record<string, string> = {};
  for (const name of names) {
    const match = FILE.exec(name);
    if (!match) continue;
    const part = match[1]?.slice(1).toLowerCase();
    const path = join(dir, name);
    if (part === undefined) registry = path;
    else if (part === "base") base = path;
    else if (part === "cpu" || part.startsWith("cpu-")) cpu.push(path);
    else {
      const backend = GPU_BACKENDS.find((b) => part === b);
      if (backend) gpu[backend] = path;
    }
  }
  if (!base || !registry) return undefined;
  return { dir, source, base, registry, cpu: cpu.sort(), gpu };
}

/** Packages that may hold the library on this platform, most capable first. */
export function packagesFor(platform: string = process.platform, arch: string = process.arch): string[] {
  return (PACKAGES[`${platform}-${arch}`] ?? []).map((name) => `@node-llama-cpp/${name}`);
}

/** The command that installs the default package of this platform. */
export function installCommand(): string {
  const names = packagesFor();
  const name = names.find((n) => n.includes("vulkan") || n.includes("metal")) ?? names[0];
  return name
    ? `npm install ${name}@${PACKAGE_VERSION}`
    : `build ggml ${GGML_VERSION} with GGML_BACKEND_DL=ON and point SPILLWAY_GGML_DIR at its libraries`;
}

/** Every folder that holds the library. An environment override is alone: nothing else is then looked at. */
export function discover(env: NodeJS.ProcessEnv = process.env): LibraryFolder[] {
  const override = env.SPILLWAY_GGML_DIR;
  if (override) {
    const folder = inspectFolder(override, "SPILLWAY_GGML_DIR");
    return folder ? [folder] : [];
  }
  const found: LibraryFolder[] = [];
  for (const name of packagesFor()) {
    for (const root of packageRoots(name)) {
      const bins = join(root, "bins");
      if (!existsSync(bins)) continue;
      for (const entry of readdirSync(bins)) {
        const folder = inspectFolder(join(bins, entry), name);
        if (folder) found.push(folder);
      }
      break;
    }
  }
  return found;
}

/** Folders that may be the package: node_modules of this file's ancestors, then of the working directory. */
function packageRoots(name: string): string[] {
  const roots: string[] = [];
  for (const from of [import.meta.url, join(process.cwd(), "index.js")]) {
    for (const path of createRequire(from).resolve.paths(name) ?? []) {
      const root = join(path, name);
      if (existsSync(join(root, "package.json"))) roots.push(dirname(join(root, "package.json")));
    }
  }
  return roots;
}

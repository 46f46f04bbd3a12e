// Where the tensor library's files are: SPILLWAY_GGML_DIR, or the npm packages that this package's own place resolves; never
// the working directory. Finds and checks who may write them; does not load.
import { existsSync, readdirSync, realpathSync } from "node:fs";
import Module from "node:module";
import { dirname, isAbsolute, join } from "node:path";
import { OWN_PLACE } from "../../base/own-place.ts";
import { whyAnyUntrusted } from "./loading/trust.ts";

/** The variable that names a folder of libraries, and their source then. */
export const OVERRIDE = "SPILLWAY_GGML_DIR";

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

/** What was found: folders that can be used, and those left out with the reason. */
export interface Discovery {
  readonly folders: readonly LibraryFolder[];
  readonly refused: readonly { readonly dir: string; readonly source: string; readonly reason: string }[];
}

/**
 * Every folder that holds the library and that only this installation's owners may write. An environment override is alone:
 * nothing else is then looked at.
 */
export function discover(env: NodeJS.ProcessEnv = process.env, place: string = OWN_PLACE): Discovery {
  const override = env.SPILLWAY_GGML_DIR;
  const candidates = override ? [{ dir: override, source: OVERRIDE }] : packageFolders(place);
  const folders: LibraryFolder[] = [];
  const refused: { dir: string; source: string; reason: string }[] = [];
  for (const { dir, source } of candidates) {
    if (!isAbsolute(dir)) {
      const reason = `${dir} is relative, so that it means another folder in every working directory: name an absolute one`;
      refused.push({ dir, source, reason });
      continue;
    }
    // Links are resolved once, here: what is looked at is what is loaded.
    const folder = inspectFolder(realFolder(dir), source);
    if (!folder) continue;
    const reason = whyAnyUntrusted([dir, ...librariesOf(folder.dir)]);
    if (reason) refused.push({ dir, source, reason });
    else folders.push(folder);
  }
  return { folders, refused };
}

/** Every file of a folder that a library could load with it, links resolved. */
function librariesOf(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => /\.(so|dll|dylib)(\.|$)/i.test(name))
    .map((name) => join(dir, name));
}

function realFolder(dir: string): string {
  try {
    return realpathSync(dir);
  } catch {
    return dir; // it is not there, as will be found
  }
}

/** Folders of libraries in the packages of this platform that are installed. */
function packageFolders(place: string): { dir: string; source: string }[] {
  const found: { dir: string; source: string }[] = [];
  for (const source of packagesFor()) {
    const root = packageRoot(source, place);
    const bins = root && join(root, "bins");
    if (!bins || !existsSync(bins)) continue;
    for (const entry of readdirSync(bins)) found.push({ dir: join(bins, entry), source });
  }
  return found;
}

/** The folder of a package as it is resolved from a file: node_modules above it, and where Plug'n'Play has it. */
function packageRoot(name: string, place: string): string | undefined {
  const { resolve } = Module.createRequire(place); // by the class: see ffi.ts
  for (const path of resolve.paths(name) ?? []) {
    const root = join(path, name);
    // NODE_PATH may hold relative folders.
    if (isAbsolute(path) && existsSync(join(root, "package.json"))) return root;
  }
  if (!process.versions.pnp) return undefined;
  try {
    let dir = dirname(resolve(name));
    while (!existsSync(join(dir, "package.json")) && dirname(dir) !== dir) dir = dirname(dir);
    return dir;
  } catch {
    return undefined;
  }
}

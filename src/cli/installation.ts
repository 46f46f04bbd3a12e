// Where this copy of Spillway is: its version, and the checkpoint that comes with the repository.
import { existsSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

/** Below the package's folder. Not part of the npm package: it belongs to the examples. */
const BUNDLED_CHECKPOINT = join("examples", "story", "model");

/** The folder of package.json: above the sources, or above dist/. */
function packageRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, "package.json")) && dirname(dir) !== dir) dir = dirname(dir);
  return dir;
}

export function version(): string {
  const json: unknown = JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8"));
  const found = typeof json === "object" && json !== null && "version" in json ? json.version : undefined;
  return typeof found === "string" ? found : "unknown";
}

/** The checkpoint in the repository, if this is the repository. */
export function bundledCheckpoint(): string | undefined {
  const dir = join(packageRoot(), BUNDLED_CHECKPOINT);
  return existsSync(dir) ? dir : undefined;
}

/** A path as people type it: relative where it is below the working directory. */
export function shortPath(path: string): string {
  const short = relative(process.cwd(), path);
  return short === "" ? "." : short.startsWith("..") || isAbsolute(short) ? path : short;
}

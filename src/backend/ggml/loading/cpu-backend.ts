// Chooses the CPU backend: of the builds for different instruction sets, the one that says it fits this CPU best, as ggml
// itself chooses. Loads builds to ask them, and unloads them again.
import { basename } from "node:path";
import { ffi } from "./ffi.ts";
import { loadNeeds } from "./needed.ts";

/**
 * Builds by the score that they give where they run at all, the highest first. It is a constant of each, so once one runs
 * none of those after it need be asked, which saves the time of loading them.
 */
export const BY_SCORE: readonly string[] = [
  "sapphirerapids",
  "zen4",
  "cooperlake",
  "icelake",
  "cascadelake",
  "cannonlake",
  "skylakex",
  "alderlake",
  "haswell",
  "piledriver",
  "ivybridge",
  "sandybridge",
  "sse42",
  "x64",
];

/** The file of the best build; undefined if none runs here. */
export function bestCpuBackend(paths: readonly string[]): string | undefined {
  const rank = (path: string) =>
    BY_SCORE.indexOf(/cpu-([a-z0-9]+)\.[a-z.0-9]+$/i.exec(basename(path))?.[1] ?? "");
  let best: { path: string; score: number } | undefined;
  // Builds that are not known (-1) come first and are all asked.
  for (const path of [...paths].sort((a, b) => rank(a) - rank(b))) {
    const score = scoreOf(path);
    if (score > (best?.score ?? 0)) best = { path, score };
    if (score > 0 && rank(path) >= 0) break;
  }
  return best?.path;
}

/** How well a build fits this CPU; 0 if it does not run on it. */
export function scoreOf(path: string): number {
  try {
    if (loadNeeds(path) !== undefined) return 0;
    const candidate = ffi().load(path);
    try {
      return (candidate.func("ggml_backend_score", "int", []) as () => number)();
    } catch {
      return 1; // a build with a single CPU backend exports no score
    } finally {
      candidate.unload();
    }
  } catch {
    return 0;
  }
}

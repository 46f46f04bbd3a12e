import { resolve } from "node:path";
import { defineConfig } from "tsdown";
import { workerText } from "./scripts/worker-text.ts";

/** Files of ASCII alone are read and parsed faster. Other characters stand in texts and regexes only, where they may be escaped. */
const asciiOnly = {
  name: "ascii-only",
  generateBundle(_: unknown, bundle: Record<string, { code?: string }>) {
    for (const chunk of Object.values(bundle))
      if (chunk.code !== undefined)
        chunk.code = chunk.code.replace(
          /[^\0-\x7f]/g,
          (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
        );
  },
};

type Graph = { getModuleInfo(id: string): { importedIds: string[] } | null };
const reached = new Map<string, ReadonlySet<string>>();

/** The modules that a module imports, and those that they import, without what is loaded later by `import()`. */
function reachedFrom(entry: string, graph: Graph): ReadonlySet<string> {
  let found = reached.get(entry) as Set<string> | undefined;
  if (found !== undefined) return found;
  found = new Set();
  reached.set(entry, found);
  const waiting = [resolve(entry)];
  for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
    if (found.has(id)) continue;
    found.add(id);
    waiting.push(...(graph.getModuleInfo(id)?.importedIds ?? []));
  }
  return found;
}

/**
 * Two files for what the library loads: what the command line needs to begin, and the rest. Each file costs a program about
 * a millisecond when it begins, and what the command line does not need another fifty.
 */
function chunkOf(id: string, graph: Graph): string | null {
  if (!reachedFrom("src/index.ts", graph).has(id)) return null;
  return reachedFrom("src/cli/main.ts", graph).has(id) ? "base" : "engine";
}

export default defineConfig({
  entry: { index: "src/index.ts", cli: "src/cli/main.ts", synthetic: "src/formats/synthetic.ts" },
  format: "esm",
  platform: "node",
  target: "node20",
  dts: { entry: "src/index.ts" },
  fixedExtension: false,
  clean: true,
  sourcemap: false,
  outputOptions: {
    comments: { legal: true, annotation: true, jsdoc: false },
    codeSplitting: { groups: [{ name: chunkOf }] },
  },
  plugins: [workerText(), asciiOnly],
});

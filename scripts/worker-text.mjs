// A plugin for tsdown and vitest: `import SOURCE from "./worker.ts?text"` is that file and all it imports, bundled into
// one text of JavaScript. The sandbox's worker starts from it, so that it needs no file of its own: not in dist, not in
// a program that was bundled, not under vitest. The text carries the notices of the libraries in it.
import { dirname, resolve } from "node:path";
import { rolldown } from "rolldown";

const QUERY = "?text";

/** @returns {import("rolldown").Plugin} */
export function workerText() {
  return {
    name: "worker-text",
    resolveId(source, importer) {
      if (!source.endsWith(QUERY) || importer === undefined) return;
      return `\0${resolve(dirname(importer), source.slice(0, -QUERY.length))}${QUERY}`;
    },
    async load(id) {
      if (!id.startsWith("\0") || !id.endsWith(QUERY)) return;
      const bundle = await rolldown({
        input: id.slice(1, -QUERY.length),
        platform: "node",
        onLog: (level, log, handler) => level === "warn" ? undefined : handler(level, log),
      });
      const { output } = await bundle.generate({ format: "cjs", minify: { compress: true, mangle: true }, codeSplitting: false });
      const watched = await bundle.watchFiles;
      for (const file of watched) this.addWatchFile?.(file);
      await bundle.close();
      return `export default ${JSON.stringify(output[0].code)};`;
    },
  };
}

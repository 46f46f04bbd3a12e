// A plugin for tsdown and vitest: `import SOURCE from "./worker.ts?text"` is that file and all it imports, bundled into
// one text of JavaScript, compressed (Brotli) and in base64: programs read it when they begin, few use it at once. The sandbox's worker starts from it, so that it needs no file of its own: not in dist, not in
// a program that was bundled by somebody else, not under vitest, which runs the TypeScript sources.
import { dirname, resolve } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";
import { type Plugin, rolldown } from "rolldown";

const QUERY = "?text";
/** Begins the ids of the modules made here; the zero byte keeps other plugins away from them. */
const PREFIX = "\0worker-text:";

export function workerText(): Plugin & { enforce: "pre" } {
  return {
    name: "worker-text",
    // Before vite's own resolving, which takes the query off.
    enforce: "pre",
    resolveId(source, importer) {
      if (!source.endsWith(QUERY) || importer === undefined) return null;
      return PREFIX + resolve(dirname(importer), source.slice(0, -QUERY.length)).replace(/\.ts$/, "");
    },
    async load(id) {
      if (!id.startsWith(PREFIX)) return null;
      const bundle = await rolldown({ input: `${id.slice(PREFIX.length)}.ts`, platform: "node" });
      const { output } = await bundle.generate({ format: "cjs", minify: true });
      await bundle.close();
      // Comments are gone: the notices that licences ask for are these.
      const notice =
        "/*! Includes oniguruma-to-es, oniguruma-parser, regex-recursion and regex-utilities, (c) Steven Levithan, MIT License. */";
      // A function of its own: as a script its short names would meet those of the process's flags, such as --expose-gc's gc.
      const text = `(()=>{${output[0].code}\n})();`;
      const params = { [constants.BROTLI_PARAM_SIZE_HINT]: text.length };
      const packed = brotliCompressSync(text, { params }).toString("base64");
      return `${notice}\nexport default ${JSON.stringify(packed)};`;
    },
  };
}

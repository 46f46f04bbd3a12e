// For tests that start programs of their own from the sources: `node --import LOADER program.ts`. Not for the program.
import { writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { temporaryFolder } from "./testing.ts";

/** Node does not run TypeScript by itself before version 22: a loader that takes the types away, once for all children. */
export async function typescriptLoader(): Promise<string> {
  const folder = temporaryFolder();
  const compiler = pathToFileURL(createRequire(import.meta.url).resolve("typescript")).href;
  const hooks = join(folder, "hooks.mjs");
  await writeFile(
    hooks,
    `import { existsSync, readFileSync, writeFileSync } from "node:fs";
     import { createHash } from "node:crypto";
     const compilerOptions = { module: "esnext", target: "es2022", verbatimModuleSyntax: true };
     async function stripped(url) {
       const cached = new URL(createHash("sha256").update(url).digest("hex") + ".mjs", import.meta.url);
       if (existsSync(cached)) return readFileSync(cached, "utf8");
       const { default: ts } = await import(${JSON.stringify(compiler)});
       const text = readFileSync(new URL(url), "utf8");
       const { outputText } = ts.transpileModule(text, { compilerOptions });
       writeFileSync(cached, outputText);
       return outputText;
     }
     export async function load(url, context, next) {
       if (!url.endsWith(".ts")) return next(url, context);
       return { format: "module", source: await stripped(url), shortCircuit: true };
     }`,
  );
  const loader = join(folder, "loader.mjs");
  const register = `import { register } from "node:module"; register(${JSON.stringify(pathToFileURL(hooks).href)});`;
  await writeFile(loader, register);
  return pathToFileURL(loader).href;
}

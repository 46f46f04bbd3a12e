// Runs an example: node examples/run.mjs NAME [arguments]. Node 20 does not run TypeScript, so the example is bundled
// into a temporary file first; `import ... from "spillway"` becomes this repository's build.
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ROOT = fileURLToPath(new URL("..", import.meta.url));
const LIBRARY = new URL("../dist/index.js", import.meta.url);

process.exitCode = await main(process.argv.slice(2));

/** @param {string[]} argv */
async function main([name = "", ...rest]) {
  const source = join(HERE, `${name}.ts`);
  const names = readdirSync(HERE).flatMap((file) => /^([a-z-]+)\.ts$/.exec(file)?.[1] ?? []);
  if (!names.includes(name)) {
    console.error(`usage: node examples/run.mjs NAME; the examples are ${names.join(", ")}`);
    return 2;
  }
  if (!existsSync(LIBRARY)) {
    console.error("dist/index.js is not there: run npm ci or npm run build first");
    return 1;
  }
  const folder = await mkdtemp(join(tmpdir(), "spillway-example-"));
  try {
    const file = join(folder, `${name}.mjs`);
    await bundle(source, file);
    return await run(file, rest);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * @param {string} source
 * @param {string} file
 */
async function bundle(source, file) {
  const build = await rolldown({
    input: source,
    platform: "node",
    plugins: [
      {
        name: "spillway",
        resolveId: (id) => (id === "spillway" ? { id: LIBRARY.href, external: true } : null),
      },
    ],
  });
  await build.write({ file, format: "esm" });
  await build.close();
}

/**
 * The bundle in a process of its own, in the repository's folder; resolves with its exit code.
 * @param {string} file
 * @param {string[]} argv
 * @returns {Promise<number>}
 */
function run(file, argv) {
  const child = spawn(process.execPath, [file, ...argv], { cwd: ROOT, stdio: "inherit" });
  process.on("SIGINT", () => {}); // the terminal sends it to the example too, which ends by it
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? (signal === "SIGINT" ? 130 : 1)));
  });
}

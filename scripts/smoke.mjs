// A part of the tests that takes a minute or two, one file of each folder: npm run smoke, with whatever Node runs it.
// .ci/run makes it with the newest Node, and the whole suite with the oldest that is supported.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const FOLDERS = ["src", "test", "bench", "examples", "scripts"];

/** Where the first file of a folder would not do: what depends on Node the most, and is quick. */
export const CHOSEN = new Set([
  "src/index.test.ts",
  "src/backend/ggml/ops.test.ts",
  "src/backend/ggml/loading/ffi.test.ts",
  "src/cli/executable.test.ts",
  "src/formats/open.test.ts",
  "src/generate/causal-lm.test.ts",
  "src/generate/text/tokenizer.test.ts",
  "src/memory/io/direct-io.test.ts",
  "src/memory/shared-memory.test.ts",
  "src/memory/stores/disk.test.ts",
  "src/report/memory-probe.test.ts",
  "src/train/fit/schedule.test.ts",
  "src/train/optimizer/adamw-crew.test.ts",
  "test/train-create.test.ts",
  "test/golden/cpu.test.ts",
]);

/** Of files of tests, one of each folder: the chosen one, or the first by name. */
export function smokeTests(files) {
  const one = new Map();
  for (const file of files.toSorted()) {
    const folder = dirname(file);
    if (!one.has(folder) || CHOSEN.has(file)) one.set(folder, file);
  }
  return [...one.values()];
}

/** Every file of tests, with / between folders. */
export function testFiles() {
  return FOLDERS.flatMap((folder) =>
    readdirSync(`${ROOT}${folder}`, { recursive: true })
      .map((file) => `${folder}/${file}`.replaceAll("\\", "/"))
      .filter((file) => /\.test\.m?[jt]s$/.test(file) && !file.includes("node_modules/")),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const vitest = fileURLToPath(new URL("../node_modules/vitest/vitest.mjs", import.meta.url));
  const argv = [vitest, "run", ...process.argv.slice(2), ...smokeTests(testFiles())];
  const { status } = spawnSync(process.execPath, argv, { cwd: ROOT, stdio: "inherit" });
  process.exitCode = status ?? 1;
}

// This checkout beside an earlier one, both built: opening, first token and decode of a small and of a 4 GiB model.
//   node bench/versions.mjs --before DIR [--repeats 9] [--threads 1] [--models small,large]
// Runs alternate (A B B A ...), each in a fresh process. A ratio above 1: this checkout is faster.
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeCheckpoint, WORK } from "./lib/cases.mjs";
import { runForJson } from "./lib/child.mjs";
import { median, round, spread, table, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";

const { values } = parseArgs({
  options: {
    before: { type: "string" },
    repeats: { type: "string", default: "9" },
    threads: { type: "string", default: "1" },
    models: { type: "string", default: "small,large" },
  },
});
if (!values.before) throw new Error("--before DIR: a built checkout of the version to compare with");
const here = fileURLToPath(new URL("..", import.meta.url));
const runner = fileURLToPath(new URL("runners/versions.mjs", import.meta.url));
const repeats = count(values, "repeats", 1);
const MEASURES = /** @type {const} */ ([
  "open_ms",
  "first_token_ms",
  "total_to_first_token_ms",
  "ms_per_token",
]);

/** @param {string} project @param {string} dir @param {number} tokens */
const run = (project, dir, tokens) => {
  const more = ["--threads", values.threads, "--new-tokens", String(tokens)];
  return /** @type {Promise<any>} */ (runForJson([process.execPath, runner, project, dir, ...more]));
};

/** 4 GiB of random bf16 weights with a tokenizer, made on first use. */
async function largeModel() {
  const dir = join(WORK, "llama-4gib-bf16");
  await mkdir(WORK, { recursive: true });
  if (!existsSync(dir)) await makeCheckpoint(dir, ["--preset", "llama-4gib", "--dtype", "bf16"]);
  return dir;
}

const results = [];
for (const name of values.models.split(",")) {
  const small = name === "small";
  const dir = small ? fileURLToPath(new URL("../examples/story/model", import.meta.url)) : await largeModel();
  /** @type {Record<"before" | "now", any[]>} */
  const runs = { before: [], now: [] };
  for (const side of /** @type {const} */ (["before", "now"])) // what is in the page cache afterwards is there for both
    await run(side === "now" ? here : values.before, dir, 2);
  for (let i = 0; i < repeats; i++) {
    console.error(`${name}: repeat ${i + 1} of ${repeats}`);
    const order = /** @type {const} */ (i % 2 ? ["now", "before"] : ["before", "now"]);
    for (const side of order)
      runs[side].push(await run(side === "now" ? here : values.before, dir, small ? 200 : 12));
  }
  const same = runs.now.every(({ tokens }) => tokens === runs.before[0]?.tokens);
  const measures = Object.fromEntries(
    MEASURES.map((key) => {
      const [before, now] = [runs.before, runs.now].map((list) => spread(list.map((r) => r[key])));
      return [key, { before, now, ratio: median([(before?.median ?? 0) / (now?.median ?? 0)]) }];
    }),
  );
  results.push({ model: name, same_tokens: same, ...measures });
}
console.log(
  table(
    results.flatMap((r) =>
      MEASURES.map((key) => {
        const { before, now, ratio } = /** @type {any} */ (r)[key];
        return {
          model: r.model,
          measure: key,
          before: round(before.median),
          now: round(now.median),
          ratio: round(ratio),
          "same tokens": String(r.same_tokens),
        };
      }),
    ),
  ),
);
const { repeats: _, before: __, ...settings } = values;
await writeResult("versions", { settings: { ...settings, repeats }, results });

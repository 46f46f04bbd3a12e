// What published shapes need at least, and what stays of a 3B one under 1 GiB: plans alone, over sparse files of zeros.
//   node bench/smallest-budgets.mjs [--before CHECKOUT] [--folder DIR]
// --before: a built checkout of another version, for the same numbers of it.
import { spawnSync } from "node:child_process";
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeCheckpoint } from "../dist/synthetic.js";
import { mib, table, writeResult } from "./lib/results.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));

const LLAMA_32_3B = {
  bos_token_id: 128000,
  eos_token_id: 128001,
  hidden_size: 3072,
  intermediate_size: 8192,
  max_position_embeddings: 131072,
  num_attention_heads: 24,
  num_hidden_layers: 28,
  num_key_value_heads: 8,
  head_dim: 128,
  rope_theta: 500000,
  vocab_size: 128256,
};

/** [name, what makes it] */
const SHAPES = [
  ["llama-3.2-3b", { family: "llama", shape: LLAMA_32_3B, tie_word_embeddings: true }],
  ["llama-3-8b", { shape: "llama-3-8b" }],
  ["llama-3-70b", { shape: "llama-3-70b" }],
];

/** The plan under a budget, or what the refusal says is the least. */
function inspect(checkout, dir, ...args) {
  const cli = path.join(checkout, "dist/cli.js");
  const run = spawnSync(process.execPath, [cli, "inspect", dir, "--device", "cpu", "--json", ...args], {
    encoding: "utf8",
  });
  if (run.status === 0) return JSON.parse(run.stdout).plan;
  const least = /--cpu (\d+)MiB/.exec(run.stderr + run.stdout);
  if (!least) throw new Error(run.stderr);
  return Number(least[1]) * 2 ** 20;
}

/** The least budget that works. Bytes. */
function smallest(checkout, dir) {
  let budget = 2 ** 20;
  for (let tries = 0; tries < 20; tries++) {
    const plan = inspect(checkout, dir, "--cpu", `${Math.ceil(budget / 2 ** 20)}MiB`);
    if (typeof plan !== "number") return Math.ceil(budget / 2 ** 20) * 2 ** 20;
    budget = plan;
  }
  throw new Error("no budget worked");
}

function measure(checkout, dir, name) {
  const plan = inspect(checkout, dir, "--cpu", "1GiB");
  const cpu = typeof plan === "number" ? undefined : plan.tiers.find(({ tier }) => tier === "cpu");
  const resident = cpu?.entries.find(({ what }) => what === "weights")?.bytes ?? 0;
  return {
    name,
    smallest_bytes: smallest(checkout, dir),
    resident_of_1gib: resident / 2 ** 30,
    ...(cpu && { context_of_1gib: plan.context_length, entries_of_1gib: cpu.entries }),
  };
}

const { values } = parseArgs({
  options: { folder: { type: "string", default: path.join(here, ".work") }, before: { type: "string" } },
});
await mkdir(values.folder, { recursive: true });
const rows = [];
for (const [name, options] of SHAPES) {
  const dir = path.join(values.folder, `${name}-sparse`);
  await makeCheckpoint(dir, { ...options, dtype: "bf16", sparse: true });
  try {
    rows.push({
      now: measure(path.join(here, ".."), dir, name),
      ...(values.before && { before: measure(values.before, dir, name) }),
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
const share = (x) => `${Math.round(100 * x)} %`;
console.log(
  table([
    ["shape", "least", "before", "ratio", "resident of 1 GiB", "before"],
    ...rows.map(({ now, before }) => [
      now.name,
      mib(now.smallest_bytes),
      before ? mib(before.smallest_bytes) : "",
      before ? (now.smallest_bytes / before.smallest_bytes).toFixed(2) : "",
      share(now.resident_of_1gib),
      before ? share(before.resident_of_1gib) : "",
    ]),
  ]),
);
await writeResult("smallest-budgets", { rows });

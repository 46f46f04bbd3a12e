// A 4 GiB model inside a memory control group of its budget plus 256 MiB, for budgets of a quarter, a half and three
// quarters of its size: is the process killed, and what does the kernel count at peak?
//   node bench/peak-memory.mjs [--layers N] [--dtype bf16] [--new-tokens 4] [--checkpoint DIR]
import path from "node:path";
import { parseArgs } from "node:util";
import { MODEL_OPTIONS, prepareModel, run } from "./lib/cases.mjs";
import { dropCaches, OwnDisk, whyNoLimits } from "./lib/known-disk.mjs";
import { mib, round, table, writeResult } from "./lib/results.mjs";
import { runUnless } from "./lib/skip.mjs";

const MIB = 2 ** 20;
const SHARES = [0.25, 0.5, 0.75];
/** MiB the process may take beside its budget. */
const BESIDE = 256;

async function main() {
  const { values } = parseArgs({
    options: { ...MODEL_OPTIONS, "new-tokens": { type: "string", default: "4" } },
  });
  const model = await prepareModel(values);
  const disk = new OwnDisk(path.dirname(model.gguf));
  const cases = [];
  for (const share of SHARES) {
    const budgetMib = Math.floor((model.weightBytes * share) / MIB);
    const limitMib = budgetMib + BESIDE;
    dropCaches();
    console.error(`budget ${budgetMib} MiB (${share * 100} %), limit ${limitMib} MiB`);
    const options = {
      "budget-mib": String(budgetMib),
      "prompt-tokens": 16,
      "new-tokens": Number(values["new-tokens"]),
    };
    // A process that the kernel kills prints no result, which ends the bench with an error.
    const result = await run("spillway", model, options, (command) =>
      disk.within(command, { memoryMib: limitMib }),
    );
    const { memory_cgroup_peak_bytes, peak_rss_bytes, tokens, memory } = result;
    cases.push({
      share,
      budgetMib,
      limitMib,
      memory_cgroup_peak_bytes,
      peak_rss_bytes,
      tokens,
      ledger_peak_bytes: memory.peak.cpu,
    });
  }
  const same = cases.every((c) => c.tokens.join() === cases[0]?.tokens.join());
  console.log(
    table(
      cases.map((c) => ({
        share: `${c.share * 100} %`,
        "budget MiB": c.budgetMib,
        "limit MiB": c.limitMib,
        "cgroup peak MiB": mib(c.memory_cgroup_peak_bytes),
        "VmHWM MiB": mib(c.peak_rss_bytes),
        "ledger peak MiB": mib(c.ledger_peak_bytes),
        tokens: c.tokens.length,
      })),
    ),
  );
  console.log(same ? "the same tokens under every budget" : "THE TOKENS DIFFER");
  await writeResult("peak-memory", {
    model: model.name,
    weight_gib: round(model.weightBytes / 2 ** 30, 2),
    same_tokens: same,
    cases,
  });
  if (!same) process.exitCode = 1;
}

const reason = whyNoLimits();
await runUnless(reason && `limiting the memory of a run ${reason}`, main);

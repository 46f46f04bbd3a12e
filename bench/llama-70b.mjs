// Llama-3-70B's shapes (bf16, 131 GiB, a sparse file of zeros) on a small machine: how long inspecting takes, and one
// decode step under a budget of 8 GiB, in a memory control group of that plus 256 MiB.
//   node bench/llama-70b.mjs [--folder DIR]
import { spawnSync } from "node:child_process";
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeCheckpoint } from "../dist/synthetic.js";
import { runForJson } from "./lib/child.mjs";
import { OwnDisk, whyNoLimits } from "./lib/known-disk.mjs";
import { mib, round, table, writeResult } from "./lib/results.mjs";
import { runUnless } from "./lib/skip.mjs";

const BUDGET_MIB = 8192;
const BESIDE = 256;
const here = path.dirname(fileURLToPath(import.meta.url));

async function main() {
  const { values } = parseArgs({
    options: { folder: { type: "string", default: path.join(here, ".work") } },
  });
  const dir = path.join(values.folder, "llama-3-70b-sparse");
  await mkdir(values.folder, { recursive: true });
  const { bytes, parameters } = await makeCheckpoint(dir, {
    shape: "llama-3-70b",
    dtype: "bf16",
    sparse: true,
  });
  try {
    const began = performance.now();
    const cli = path.join(here, "../dist/cli.js");
    const inspected = spawnSync(process.execPath, [
      cli,
      "inspect",
      dir,
      "--cpu",
      `${BUDGET_MIB}MiB`,
      "--json",
    ]);
    if (inspected.status !== 0) throw new Error(`inspect failed: ${inspected.stderr}`);
    const inspect_s = (performance.now() - began) / 1000;
    const disk = new OwnDisk(values.folder);
    const runner = path.join(here, "runners/spillway.mjs");
    const options = [
      "--model",
      dir,
      "--budget-mib",
      String(BUDGET_MIB),
      "--ids",
      "1",
      "--new-tokens",
      "2",
      "--context",
      "512",
    ];
    const run = await runForJson(
      disk.within([process.execPath, runner, ...options], { memoryMib: BUDGET_MIB + BESIDE }),
    );
    console.log(
      table([
        {
          "inspect s": round(inspect_s),
          "load s": round(run.load_s),
          "prefill s": round(run.prefill_s),
          "decode step s": round(run.seconds_per_token[0]),
          "GiB streamed per token": round(run.streamed_bytes / 2 ** 30),
          "cgroup peak MiB": mib(run.memory_cgroup_peak_bytes),
          "limit MiB": BUDGET_MIB + BESIDE,
        },
      ]),
    );
    await writeResult("llama-70b", {
      weight_bytes: bytes,
      parameters,
      inspect_s,
      budgetMib: BUDGET_MIB,
      limitMib: BUDGET_MIB + BESIDE,
      run,
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const reason = whyNoLimits();
await runUnless(reason && `limiting the memory of a run ${reason}`, main);

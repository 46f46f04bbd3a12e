// node examples/run.mjs low-memory-load
//
// Loads a GPT-2-medium-shaped model (355 M parameters, 1.4 GB in float32) twice, each time in a fresh process:
//   low_cpu_mem_usage: true   (default) each tensor goes from disk to its final place
//   low_cpu_mem_usage: false  everything is read first and copied then, as `torch.load` + `load_state_dict` do
// Only the second one needs the memory twice. Exits with 1 if that is not what the kernel saw. Takes 1.4 GB of disk and
// 3 GB of RAM.
import { AutoModelForCausalLM, MemoryProbe } from "spillway";
import { inFreshProcess, mib, report } from "./support/fresh-process.ts";
import { madeCheckpoint } from "./support/made-checkpoint.ts";

interface Load {
  /** Resident bytes of the process: before loading, after, and at most meanwhile. */
  readonly before: number;
  readonly after: number;
  readonly peak: number;
  readonly parameters: number;
  /** What it generates; ids, because few ids of this vocabulary are text. */
  readonly tokens: number[];
}

/** More of the model than this on top of what it takes itself is a second copy. */
const SLACK = 0.25;

async function load(dir: string, low_cpu_mem_usage: boolean): Promise<Load> {
  const probe = new MemoryProbe().start();
  const model = await AutoModelForCausalLM.from_pretrained(dir, {
    device: "cpu",
    low_cpu_mem_usage,
    context_length: 64, // the KV cache is not what this is about
  });
  try {
    const memory = probe.stop();
    const [tokens = []] = await model.generate({ input_ids: [[40, 716, 257]], max_new_tokens: 8 });
    return { ...memory, parameters: model.num_parameters, tokens };
  } finally {
    await model.dispose();
  }
}

async function compare(): Promise<number> {
  const dir = await madeCheckpoint("gpt2-medium-f32", ["--preset", "gpt2-medium", "--dtype", "f32"]);
  const low = await inFreshProcess<Load>([dir, "true"]);
  const naive = await inFreshProcess<Load>([dir, "false"]);
  const size = low.parameters * Float32Array.BYTES_PER_ELEMENT;
  console.log(`${(low.parameters / 1e6).toFixed(0)} M parameters, ${mib(size).trim()} of weights\n`);
  console.log("low_cpu_mem_usage      before     after      peak  peak / weights");
  for (const [name, run] of [
    ["true", low],
    ["false", naive],
  ] as const) {
    const times = ((run.peak - run.before) / size).toFixed(2);
    console.log(`${name.padEnd(18)}${mib(run.before)}${mib(run.after)}${mib(run.peak)}${times.padStart(16)}`);
  }
  console.log(`\nboth generate (random weights, so it means nothing): ${low.tokens.join(" ")}`);
  const lowIsLow = low.peak - low.before < (1 + SLACK) * size;
  const naiveIsTwice = naive.peak - naive.before > (2 - SLACK) * size;
  const same = low.tokens.join() === naive.tokens.join();
  if (lowIsLow && naiveIsTwice && same) return 0;
  console.error(`not as expected: ${JSON.stringify({ lowIsLow, naiveIsTwice, same })}`);
  return 1;
}

const [dir, low] = process.argv.slice(2);
if (dir !== undefined && low !== undefined) report(await load(dir, low === "true"));
else process.exitCode = await compare();

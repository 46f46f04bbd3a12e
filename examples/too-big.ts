// node examples/run.mjs too-big
//
// Runs a model in a quarter of the memory its weights take. What does not fit stays on disk and streams through a ring
// of buffers in every pass; the tokens are the same as with everything in RAM. Exits with 1 if it is not, or if the budget
// was exceeded. Takes 620 MB of disk.
import { AutoModelForCausalLM, MemoryProbe } from "spillway";
import { inFreshProcess, mib, report } from "./support/fresh-process.ts";
import { madeCheckpoint } from "./support/made-checkpoint.ts";

/** A slice of a 4 GiB Llama: layers of full width, few of them, and a small vocabulary. */
const SHAPE = {
  hidden_size: 2048,
  intermediate_size: 5632,
  max_position_embeddings: 2048,
  num_attention_heads: 32,
  num_hidden_layers: 7,
  num_key_value_heads: 4,
  vocab_size: 4096,
};

const PART = 1 / 4;

interface Run {
  /** What it generates; ids, because few ids of this vocabulary are text. */
  readonly tokens: number[];
  /** Bytes of all weights. */
  readonly weights: number;
  /** Bytes the ledger allowed and saw in RAM. */
  readonly budget: number;
  readonly used: number;
  /** Bytes of weights that stay on disk, and that are read from it for every token. */
  readonly onDisk: number;
  readonly perToken: number;
  readonly secondsPerToken: number;
  /** Resident bytes of the whole process, Node included. */
  readonly before: number;
  readonly peak: number;
}

async function run(dir: string, cpu: number | undefined): Promise<Run> {
  const probe = new MemoryProbe().start();
  const model = await AutoModelForCausalLM.from_pretrained(dir, {
    device: "cpu",
    context_length: 128,
    ...(cpu !== undefined && { max_memory: { cpu } }),
  });
  try {
    const options = { max_new_tokens: 12, ignore_eos: true, do_sample: false };
    const [tokens = []] = await model.generate({ input_ids: [[78, 256, 1044]], ...options });
    const { budget, peak } = model.memory();
    const { decodeTokens, decodeSeconds } = model.statistics();
    const memory = probe.stop();
    return {
      tokens,
      weights: model.num_parameters * 2, // bfloat16
      budget: budget.cpu,
      used: peak.cpu,
      onDisk: model.plan.bytes.disk,
      perToken: model.plan.streamed.disk,
      secondsPerToken: decodeSeconds / decodeTokens,
      before: memory.before,
      peak: memory.peak,
    };
  } finally {
    await model.dispose();
  }
}

async function compare(): Promise<number> {
  const options = ["--family", "llama", "--shape", JSON.stringify(SHAPE), "--dtype", "bf16"];
  const dir = await madeCheckpoint("llama-slice", options);
  const resident = await inFreshProcess<Run>([dir]);
  const quarter = await inFreshProcess<Run>([dir, String(Math.floor(resident.weights * PART))]);
  const row = (name: string, of: (run: Run) => string) =>
    console.log(`${name.padEnd(30)}${of(resident).padStart(14)}${of(quarter).padStart(14)}`);
  console.log(`weights: ${mib(resident.weights).trim()}\n`);
  row("", (r) => (r === resident ? "all in RAM" : "a quarter"));
  row("RAM budget", (r) => mib(r.budget));
  row("RAM taken at most", (r) => mib(r.used));
  row("weights on disk", (r) => mib(r.onDisk));
  row("read from disk per token", (r) => mib(r.perToken));
  row("seconds per token", (r) => r.secondsPerToken.toFixed(3));
  row("resident before loading", (r) => mib(r.before));
  row("resident at peak", (r) => mib(r.peak));
  const same = quarter.tokens.join() === resident.tokens.join();
  const within = quarter.used <= quarter.budget && quarter.onDisk > 0;
  console.log(`\ngenerated (random weights, so it means nothing): ${quarter.tokens.join(" ")}`);
  console.log(same ? "the same tokens in both runs" : `in RAM it was ${resident.tokens.join(" ")}`);
  if (same && within) return 0;
  console.error(`not as expected: ${JSON.stringify({ same, within })}`);
  return 1;
}

const [dir, cpu] = process.argv.slice(2);
if (dir === undefined) process.exitCode = await compare();
else report(await run(dir, cpu === undefined ? undefined : Number(cpu)));

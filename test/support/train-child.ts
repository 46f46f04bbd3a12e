// A training that may be killed at any moment: node train-child.mjs <model> <folder> <steps>. Its state is on disk, it saves
// every other step and goes on from the latest checkpoint when it is started again. Bundled and run by train-kill.test.ts.
import { appendFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { AutoModelForCausalLM } from "../../src/generate/causal-lm.ts";
import { Xoshiro128 } from "../../src/generate/sampling/random.ts";
import { latestCheckpoint } from "../../src/train/checkpoints/index.ts";
import { Trainer } from "../../src/train/trainer.ts";

const [modelFolder = "", folder = "", count = "0"] = process.argv.slice(2);
const SAVES = join(folder, "checkpoints");

/** Each event is a line on stdout, by which the parent times its kills. */
function say(event: string): void {
  writeSync(1, `${event}\n`);
}

/** The batch of a step, whatever came before: two sequences of 16 tokens. */
function batchOf(step: number): number[][] {
  const random = new Xoshiro128(step);
  return [0, 1].map(() => Array.from({ length: 16 }, () => Math.floor(random.uniform() * 512)));
}

await using model = await AutoModelForCausalLM.from_pretrained(modelFolder, {
  ...{ device: "cpu", threads: 1, context_length: 32, offload_folder: join(folder, "offload") },
});
await using trainer = await Trainer.create(model, {
  ...{ learning_rate: 1e-3, lr_scheduler_type: "cosine", max_steps: Number(count) },
  ...{ precision: "bfloat16", max_length: 16, micro_batch_size: 2 },
  offload: { optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
  beforeWrite: ({ call }) => say(`${call} of a save`),
});
if (await latestCheckpoint(SAVES)) await trainer.resume(SAVES);
say(`from ${trainer.steps}`);
while (trainer.steps < Number(count)) {
  const input_ids = batchOf(trainer.steps);
  const { step, loss, grad_norm, learning_rate } = await trainer.step({ input_ids, labels: input_ids });
  // One write of less than a page: it is in the file whole, or not at all.
  appendFileSync(join(folder, "log.jsonl"), `${JSON.stringify({ step, loss, grad_norm, learning_rate })}\n`);
  say(`step ${step}`);
  if (step % 2 === 0) {
    await trainer.save(SAVES);
    say(`saved ${step}`);
  }
}
say("done");

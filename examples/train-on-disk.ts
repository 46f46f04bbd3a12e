// node examples/run.mjs train-on-disk
//
// Full training with everything on disk: weights, gradients, both moments of Adam, and the inputs of all stages. The same
// steps are made with everything in RAM; losses and weights must agree to the last bit, because where things live never
// changes a result. Exits with 1 if they do not, or if the budget was exceeded.
import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { AutoModelForCausalLM, type PretrainedOptions, Trainer, type TrainerOptions } from "spillway";
import { madeCheckpoint } from "./support/made-checkpoint.ts";

const SHAPE = {
  hidden_size: 512,
  intermediate_size: 1408,
  max_position_embeddings: 512,
  num_attention_heads: 8,
  num_hidden_layers: 6,
  num_key_value_heads: 8,
  vocab_size: 2048,
};
const STEPS = 3;
const TOKENS = 64;

const dir = await madeCheckpoint("llama-trained", [
  ...["--family", "llama", "--shape", JSON.stringify(SHAPE), "--dtype", "f32", "--tie"],
]);
const work = join(dir, "..", "llama-trained-work");
await rm(work, { recursive: true, force: true }); // of an earlier run

/** Any ids will do: what counts is that both runs see the same ones. */
const batch = [Array.from({ length: TOKENS }, (_, i) => (i * 7919) % SHAPE.vocab_size)];

async function train(name: string, opened: PretrainedOptions, options: TrainerOptions) {
  const model = await AutoModelForCausalLM.from_pretrained(dir, {
    device: "cpu",
    context_length: 64,
    ...opened,
  });
  const trainer = await Trainer.create(model, {
    learning_rate: 1e-3,
    weight_decay: 0.1,
    max_length: TOKENS,
    offload_folder: join(work, "offload"),
    ...options,
  });
  const losses: number[] = [];
  let seconds = 0;
  let moved = 0;
  for (let step = 0; step < STEPS; step++) {
    const result = await trainer.step({ input_ids: batch, labels: batch });
    losses.push(result.loss);
    seconds += result.seconds / STEPS;
    moved += (result.read_bytes + result.written_bytes) / STEPS;
  }
  const out = join(work, name);
  await trainer.export(out);
  const { peak, budget } = model.memory();
  const { trained } = trainer.plan();
  await trainer.dispose();
  await model.dispose();
  const weights = createHash("sha256")
    .update(await readFile(join(out, "model.safetensors")))
    .digest("hex");
  return { losses, weights, seconds, moved, ram: peak.cpu, disk: peak.disk, budget: budget.cpu, trained };
}

const ram = await train("in-ram", {}, {});
const state = ram.trained * 16; // weight, gradient and two moments, 4 bytes each
const quarter = Math.floor(state / 4);
const disk = await train(
  "on-disk",
  { max_memory: { cpu: quarter } },
  { offload: { weights: "disk", gradients: "disk", optimizer: "disk", activations: "disk" } },
);

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const row = (name: string, of: (run: typeof ram) => string) =>
  console.log(`${name.padEnd(32)}${of(ram).padStart(16)}${of(disk).padStart(16)}`);
console.log(`${ram.trained} parameters; weights, gradients and moments take ${mib(state)}\n`);
row("", (r) => (r === ram ? "all in RAM" : "all on disk"));
row("RAM taken at most", (r) => mib(r.ram));
row("disk taken at most", (r) => mib(r.disk));
row("seconds per step", (r) => r.seconds.toFixed(2));
row("moved from and to disk per step", (r) => mib(r.moved));
for (let step = 0; step < STEPS; step++)
  row(`loss of step ${step + 1}`, (r) => `${r.losses[step]?.toFixed(6)}`);

const same = ram.losses.join() === disk.losses.join() && ram.weights === disk.weights;
const within = disk.ram <= quarter && disk.disk > 0;
console.log(same ? "\nthe same losses and weights, bit for bit" : "\nthe results differ");
if (!same || !within) {
  console.error(`not as expected: ${JSON.stringify({ same, within, quarter, ram: disk.ram })}`);
  process.exitCode = 1;
}

// node examples/run.mjs lora-finetune
//
// Teaches a small model something with a LoRA adapter: the model stays as it is, streamed from disk under a budget that
// does not hold it, and two small matrices beside each attention projection learn. Then the adapter is saved as PEFT does,
// opened again over the untouched model, and merged into a copy of it. Exits with 1 if it did not learn.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, mergeAdapter, Trainer } from "spillway";

const MODEL = "examples/story/model";
/** What it is to learn: stories about somebody it has never heard of. */
const TEXTS = [
  "Once upon a time there was a robot named Bolt who lived in a lighthouse. Bolt polished the big lamp every night.",
  "Bolt the robot lived in a lighthouse. Every night Bolt polished the big lamp, and no ship was ever lost.",
  "In a lighthouse lived a robot named Bolt. He polished the lamp every night, and the ships came home.",
];
const PROMPT = "Once upon a time there was a robot named";
const STEPS = 40;

const folder = await mkdtemp(join(tmpdir(), "spillway-lora-"));
try {
  const tokenizer = await AutoTokenizer.from_pretrained(MODEL);
  const rows = TEXTS.map((text) => tokenizer.encode(text));

  // 1. Open the model under a budget. Weights that do not fit stay on disk; nothing is copied.
  const model = await AutoModelForCausalLM.from_pretrained(MODEL, {
    device: "cpu",
    max_memory: { cpu: "24MiB" },
    context_length: 128,
  });
  const say = async (what: string, of: { generate: typeof model.generate }) => {
    const input_ids = [tokenizer.encode(PROMPT)];
    const [ids = []] = await of.generate({ input_ids, max_new_tokens: 24, do_sample: false });
    console.log(`${what}: ${tokenizer.decode(ids).replaceAll("\n", " ")}`);
    return ids.join();
  };
  const before = await say("before  ", model);

  // 2. Train. Labels are shifted inside; rows of different lengths go together; -100 would be ignored.
  const trainer = await Trainer.create(model, {
    lora: { r: 8, lora_alpha: 16, target_modules: ["q_proj", "k_proj", "v_proj", "o_proj"] },
    learning_rate: 1e-2,
    micro_batch_size: rows.length,
    max_length: 64,
    offload_folder: join(folder, "offload"),
  });
  const plan = trainer.plan();
  console.log(
    `${plan.trained} of ${plan.parameters} parameters train; weights: ${JSON.stringify(plan.homes.weights)} units`,
  );
  let first = 0;
  let last = 0;
  for (let step = 1; step <= STEPS; step++) {
    const { loss, grad_norm } = await trainer.step({ input_ids: rows, labels: rows });
    if (step === 1) first = loss;
    last = loss;
    if (step % 10 === 0)
      console.log(`step ${step}  loss ${loss.toFixed(3)}  gradient ${grad_norm.toFixed(3)}`);
  }

  // 3. Texts made meanwhile are the adapter's. Save it: adapter_config.json and adapter_model.safetensors.
  const after = await say("trained ", model);
  const adapter = join(folder, "adapter");
  await trainer.export(adapter);
  await trainer.dispose();
  const base = await say("without ", model);
  await model.dispose();

  // 4. The same over the untouched model, and merged into a copy of it.
  const adapted = await AutoModelForCausalLM.from_pretrained(MODEL, { device: "cpu", adapter });
  const opened = await say("opened  ", adapted);
  await adapted.dispose();
  await mergeAdapter(MODEL, adapter, join(folder, "merged"));
  const merged = await AutoModelForCausalLM.from_pretrained(join(folder, "merged"), { device: "cpu" });
  await say("merged  ", merged);
  await merged.dispose();

  const learned = last < first / 2 && after !== before;
  const kept = base === before && opened === after;
  if (!learned || !kept) {
    console.error(`not as expected: ${JSON.stringify({ first, last, learned, kept })}`);
    process.exitCode = 1;
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}

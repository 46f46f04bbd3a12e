// Where not even the model fits, the refusal names what training it needs: with that, it is created and makes a step.
import { expect, test } from "vitest";
import { checkpoint } from "../../../test/support/checkpoints.ts";
import { CPU, labelled } from "../../../test/support/training.ts";
import { BudgetError } from "../../base/errors.ts";
import { rejection, temporaryFolder } from "../../formats/testing.ts";
import { AutoModelForCausalLM } from "../../generate/causal-lm.ts";
import { Trainer } from "../trainer.ts";
import { trainingRefusal } from "./least-budget.ts";
import type { TrainerOptions } from "./options.ts";

test.each<[string, TrainerOptions]>([
  ["whole", {}],
  ["an adapter", { lora: { r: 4, target_modules: ["q_proj"] } }],
])("%s: one figure, which works", async (_what, options) => {
  const dir = await checkpoint({ family: "llama", dtype: "f32", shape: { vocab_size: 1500 } });
  const trainer: TrainerOptions = { max_length: 16, ...options };
  const open = (cpu: number) => ({ ...CPU, device_map: "disk" as const, max_memory: { cpu } });
  const opening = (await rejection(AutoModelForCausalLM.from_pretrained(dir, open(1000)))) as BudgetError;
  expect(opening).toBeInstanceOf(BudgetError);
  const refusal = (await trainingRefusal(dir, open(1000), trainer, opening)) as BudgetError;
  expect(refusal).toBeInstanceOf(BudgetError);
  const cpu = refusal.smallest as number;
  expect(cpu).toBeGreaterThan(opening.smallest as number);
  expect(await trainingRefusal(dir, open(cpu), trainer, opening)).toBeUndefined();
  await using model = await AutoModelForCausalLM.from_pretrained(dir, open(cpu));
  const offload_folder = temporaryFolder();
  await using made = await Trainer.create(model, { ...trainer, offload_folder });
  await made.step(labelled([[1, 2, 3, 4]]));
  expect(model.memory().peak.cpu).toBeLessThanOrEqual(cpu);
});

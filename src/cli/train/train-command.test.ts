import { Command } from "commander";
import { expect, test } from "vitest";
import { commandOf, settingsOf } from "./train-command.ts";
import { addTrainOptions, flagsGiven, type TrainConfig } from "./train-options.ts";

const CONFIG: TrainConfig = {
  ...{ data: ["a b.jsonl", "it's.jsonl"], output: "out", max_steps: 7, packing: false, append_eos: true },
  ...{ no_decay: [], betas: [0.9, 0.95], lora_r: 4, use_rslora: true, rank_pattern: { q_proj: 8 } },
  ...{ modules_to_save: ["lm_head", "model.norm"], export: false, keep_best: true },
};

test("the command is what gives the same settings again", () => {
  const command = commandOf("./my model", CONFIG);
  expect(command).toContain("--no-packing");
  expect(command).toContain("--data 'a b.jsonl'");
  const words = [...command.matchAll(/'((?:[^']|'\\'')*)'|[^ ]+/g)].map(
    ([word, inside]) => inside?.replaceAll("'\\''", "'") ?? word,
  );
  const parsed = addTrainOptions(new Command().argument("[model]")).parse(words.slice(2), { from: "user" });
  const { append_eos: _, ...rest } = CONFIG; // true is what it is without the flag
  expect(flagsGiven(parsed)).toEqual(rest);
});

test("settings are those it was trained with, defaults that matter too, without places", () => {
  const settings = new Map(settingsOf(CONFIG).map(({ what, value }) => [what, value]));
  expect(settings.get("learning_rate")).toBe("0.00005");
  expect(settings.get("packing")).toBe("false");
  expect(settings.get("rank_pattern")).toBe('{"q_proj":8}');
  for (const place of ["data", "output", "export"]) expect(settings.has(place)).toBe(false);
});

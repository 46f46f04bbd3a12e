// An adapter that was trained with another end token ends its texts with it: so they end when it is used, and when it is
// merged.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { PEFT_ADAPTER } from "../../test/support/adapters.ts";
import { fixture, temporaryFolder } from "../formats/testing.ts";
import { AutoModelForCausalLM } from "../generate/causal-lm.ts";
import { AutoTokenizer } from "../generate/text/tokenizer.ts";
import { endIds } from "./end-token.ts";
import { mergeAdapter } from "./merge.ts";

const BASE = fixture("llama");
const CPU = { device: "cpu", threads: 1, context_length: 64 } as const;
const PROMPT = [5, 6, 7, 8];
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));

/** PEFT's adapter with the base's tokenizer, whose end token is the token `id` instead. */
function adapterEnding(id: number): string {
  const dir = temporaryFolder();
  for (const name of ["adapter_config.json", "adapter_model.safetensors"])
    copyFileSync(join(PEFT_ADAPTER, name), join(dir, name));
  const { vocab } = json(join(BASE, "tokenizer.json")).model as { vocab: Record<string, number> };
  const [text] = Object.entries(vocab).find(([, value]) => value === id) as [string, number];
  copyFileSync(join(BASE, "tokenizer.json"), join(dir, "tokenizer.json"));
  const config = { ...json(join(BASE, "tokenizer_config.json")), eos_token: text };
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify(config));
  return dir;
}

test("texts end at the end token of the adapter's tokenizer and at those of the base, merged or not", async () => {
  const bases = (await AutoTokenizer.from_pretrained(BASE)).eos_token_ids;
  const options = { max_new_tokens: 12, input_ids: [PROMPT] };
  const adapted = async (adapter: string) => {
    await using model = await AutoModelForCausalLM.from_pretrained(BASE, { ...CPU, adapter });
    const pieces: number[] = [];
    for await (const { token } of model.stream(PROMPT, { max_new_tokens: 12 }))
      if (token !== undefined) pieces.push(token);
    return { ids: ((await model.generate(options))[0] as number[]).slice(PROMPT.length), pieces };
  };
  const { ids: whole } = await adapted(PEFT_ADAPTER);
  const end = whole.findIndex((id, i) => i >= 2 && !bases.includes(id) && whole.indexOf(id) === i);
  expect(end).toBeGreaterThan(0);
  const adapter = adapterEnding(whole[end] as number);

  const { ids, pieces } = await adapted(adapter);
  expect(ids).toHaveLength(whole.slice(0, end).length + (ids.at(-1) === whole[end] ? 1 : 0));
  expect(pieces.filter((id) => id !== whole[end])).toEqual(whole.slice(0, end));
  const ends = [...bases, whole[end]];
  expect((await AutoTokenizer.from_pretrained(BASE, { adapter })).eos_token_ids).toEqual(ends);

  const merged = join(temporaryFolder(), "merged");
  await mergeAdapter(BASE, adapter, merged);
  expect((await AutoTokenizer.from_pretrained(merged)).eos_token_ids).toEqual(ends);
  await using model = await AutoModelForCausalLM.from_pretrained(merged, CPU);
  expect(await model.generate(options)).toEqual([[...PROMPT, ...ids]]);
});

test("where no config names one, that of the tokenizer in use counts alone", async () => {
  const adapter = adapterEnding(40);
  expect(await endIds(BASE, [], adapter)).toEqual([40]);
  expect(await endIds(BASE, [7], adapter)).toEqual([7, 40]);
  expect(await endIds(BASE, [7])).toEqual([7]);
  expect(await endIds(BASE, [7], PEFT_ADAPTER)).toEqual([7]); // which has no tokenizer
});

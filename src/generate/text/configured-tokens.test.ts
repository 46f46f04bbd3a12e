import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { AutoTokenizer } from "./tokenizer.ts";

/** What transformers 5.18's AutoTokenizer makes of a tokenizer.json and the files beside it. */
interface Case {
  name: string;
  config: Record<string, unknown>;
  more: Record<string, unknown>;
  ids: number[][];
  decoded: string[];
  skipped: string[];
  eos: number;
  size: number;
}

const fixture = join(import.meta.dirname, "../../../test/fixtures/tokenizers/reference/configured.json");
const { tokenizer, texts, cases } = JSON.parse(readFileSync(fixture, "utf8")) as {
  tokenizer: unknown;
  texts: string[];
  cases: Case[];
};
const folder = mkdtempSync(join(tmpdir(), "spillway-configured-"));
afterAll(() => rmSync(folder, { recursive: true }));

test.each(cases.map((one) => [one.name, one] as const))("%s", async (_, one) => {
  const dir = mkdtempSync(join(folder, "tokenizer-"));
  const files = { "tokenizer.json": tokenizer, "tokenizer_config.json": one.config, ...one.more };
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(dir, name), JSON.stringify(content));
  const made = await AutoTokenizer.from_pretrained(dir);
  expect(texts.map((text) => made.encode(text))).toEqual(one.ids);
  expect(await made.encode_batch(texts)).toEqual(one.ids);
  expect(one.ids.map((ids) => made.decode(ids))).toEqual(one.decoded);
  expect(one.ids.map((ids) => made.decode(ids, { skip_special_tokens: true }))).toEqual(one.skipped);
  expect(made.eos_token_id).toBe(one.eos);
  expect(made.vocab_size).toBe(one.size);
});

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UnsupportedError } from "../base/errors.ts";
import { fixture, rejection, temporaryFolder } from "../formats/testing.ts";
import { AutoTokenizer } from "../generate/text/tokenizer.ts";
import { checkAddedTokens, ownTokenizer, ownTokenizerNote, putTokenizer } from "./own-tokenizer.ts";

const BASE = fixture("llama");
const TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
const HI = [{ role: "user", content: "Hi" }];

/** A folder with these files. */
function folder(files: Readonly<Record<string, string>>): string {
  const dir = join(temporaryFolder(), "adapter");
  mkdirSync(dir);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
  return dir;
}

const read = (name: string) => readFileSync(join(BASE, name), "utf8");

describe("a template in an adapter's folder", () => {
  test.each([
    ["chat_template.jinja", { "chat_template.jinja": TEMPLATE }],
    ["chat_template.json", { "chat_template.json": JSON.stringify({ chat_template: TEMPLATE }) }],
    ["tokenizer_config.json", { "tokenizer_config.json": JSON.stringify({ chat_template: TEMPLATE }) }],
    [
      "tokenizer_config.json, with the tokenizer",
      {
        "tokenizer.json": read("tokenizer.json"),
        "tokenizer_config.json": JSON.stringify({
          ...JSON.parse(read("tokenizer_config.json")),
          chat_template: TEMPLATE,
        }),
      },
    ],
  ])("%s: is used, and goes into a merged model", async (_what, files) => {
    const adapter = folder(files);
    const tokenizer = await AutoTokenizer.from_pretrained(BASE, { adapter });
    expect(tokenizer.apply_chat_template(HI)).toBe("<user>Hi");
    expect(tokenizer.encode("Hi there")).toEqual(
      (await AutoTokenizer.from_pretrained(BASE)).encode("Hi there"),
    );
    expect(ownTokenizerNote("a", await ownTokenizer(adapter))).toHaveLength(1);

    const merged = folder({});
    for (const name of ["tokenizer.json", "tokenizer_config.json", "config.json"])
      copyFileSync(join(BASE, name), join(merged, name));
    writeFileSync(join(merged, "chat_template.jinja"), "the base's");
    await putTokenizer(adapter, merged);
    expect((await AutoTokenizer.from_pretrained(merged)).apply_chat_template(HI)).toBe("<user>Hi");
  });

  test("a tokenizer without one leaves the base's, wherever that is", async () => {
    const config = { ...JSON.parse(read("tokenizer_config.json")) };
    delete config.chat_template;
    const adapter = folder({
      "tokenizer.json": read("tokenizer.json"),
      "tokenizer_config.json": JSON.stringify(config),
    });
    const said = (await AutoTokenizer.from_pretrained(BASE)).apply_chat_template(HI);
    expect((await AutoTokenizer.from_pretrained(BASE, { adapter })).apply_chat_template(HI)).toBe(said);
    const merged = folder({
      "tokenizer.json": read("tokenizer.json"),
      "tokenizer_config.json": JSON.stringify({ ...config, chat_template: TEMPLATE }),
    });
    await putTokenizer(adapter, merged);
    expect((await AutoTokenizer.from_pretrained(merged)).apply_chat_template(HI)).toBe("<user>Hi");
  });

  test("a folder with neither, and no folder, change nothing", async () => {
    for (const dir of [folder({}), join(temporaryFolder(), "none")]) {
      expect(await ownTokenizer(dir)).toEqual({ tokenizer: false, template: false });
      expect(ownTokenizerNote(dir, await ownTokenizer(dir))).toEqual([]);
    }
  });
});

test("tokens that were added beyond the model's rows are refused by name", async () => {
  const tokenizer = JSON.parse(read("tokenizer.json")) as { added_tokens: object[] };
  tokenizer.added_tokens.push({ id: 512, content: "<tool>" }, { id: 513, content: "</tool>" });
  const dir = folder({ "tokenizer.json": JSON.stringify(tokenizer) });
  const error = await rejection(checkAddedTokens(dir, 512));
  expect(error).toBeInstanceOf(UnsupportedError);
  expect(String(error)).toMatch(
    /has 2 tokens .* 512 rows .*"<tool>" \(512\) and "<\/tool>" \(513\).*save_embedding_layers=True/,
  );
  await checkAddedTokens(dir, 514);
});

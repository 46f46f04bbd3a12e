import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PlainTokenizer } from "./plain-tokenizer.ts";

type Json = Record<string, unknown>;

const reference = join(import.meta.dirname, "../../../test/fixtures/tokenizers/reference/cases.json.gz");
let folder: string;
let texts: string[];
let cases: [name: string, json: Json, rows: [ids: number[]][]][];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "spillway-plain-"));
  ({ texts, cases } = JSON.parse(gunzipSync(await readFile(reference)).toString("utf8")));
});
afterAll(() => rm(folder, { recursive: true }));

async function open(json: Json, config: Json = {}): Promise<PlainTokenizer | undefined> {
  const path = join(folder, "tokenizer.json");
  const text = JSON.stringify(json);
  await writeFile(path, text);
  return PlainTokenizer.open({ path, limit: 1e9, files: { config } }, text.length);
}

const byName = (name: string): Json => structuredClone(cases.find(([known]) => known === name)![1]);

test("published tokenizers are plain, and give the reference's ids", async () => {
  const plain: string[] = [];
  for (const [name, json, rows] of cases) {
    const tokenizer = await open(json);
    if (tokenizer === undefined) continue;
    plain.push(name);
    for (const [i, row] of rows.entries()) {
      if (row === null) continue;
      const [ids] = tokenizer.encode({ texts: [texts[i]!], addSpecialTokens: true, maxTokens: undefined });
      expect(ids, `${name}: ${JSON.stringify(texts[i])}`).toEqual(row[0]);
    }
  }
  const published = plain.filter((name) => name.startsWith("published-"));
  expect(published.length).toBeGreaterThanOrEqual(6);
});

describe("what may take long, or make much of little, is for the sandbox", () => {
  const split = (Regex: string) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  });
  const token = (id: number, content: string) => ({ id, content, special: false });
  test.each<[what: string, change: (json: Json) => void, config?: Json]>([
    ["a regex that is not known", (json) => (json.pre_tokenizer = split("(a+)+$"))],
    [
      "a regex in a normalizer",
      (json) => (json.normalizer = { type: "Replace", pattern: { Regex: "a*" }, content: "" }),
    ],
    [
      "a regex in the decoder",
      (json) => (json.decoder = { type: "Replace", pattern: { Regex: "(a|a)*b" }, content: "" }),
    ],
    [
      "a chain of replacements",
      (json) => {
        const part = { type: "Replace", pattern: { String: "a" }, content: "a".repeat(40) };
        json.normalizer = { type: "Sequence", normalizers: Array.from({ length: 30 }, () => part) };
      },
    ],
    ["long added tokens", (json) => (json.added_tokens = [token(0, "a".repeat(9000))])],
    [
      "many added tokens",
      (json) => (json.added_tokens = Array.from({ length: 5000 }, (_, i) => token(i, `<${i}>`))),
    ],
    ["long tokens of the configuration", () => {}, { extra_special_tokens: ["a".repeat(9000)] }],
    [
      "a model of which time grows with the square of a word",
      (json) => Object.assign(json.model as Json, { type: "WordPiece" }),
    ],
    ["a large file", (json) => (json.padding = " ".repeat(9e6))],
  ])("%s", async (_, change, config = {}) => {
    const json = byName("byte-level");
    expect(await open(json)).toBeDefined();
    change(json);
    expect(await open(json, config)).toBeUndefined();
  });
});

test("long texts are for the sandbox", async () => {
  const tokenizer = await open(byName("byte-level"));
  expect(tokenizer?.takes(1000)).toBe(true);
  expect(tokenizer?.takes(100_000)).toBe(false);
});

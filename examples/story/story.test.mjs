// @ts-check
// The story model's corpus, tokenizer and first weights: repeatable, grammatical as far as patterns can tell, loadable.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AutoTokenizer } from "../../src/generate/tokenizer.ts";
import { learnMerges } from "./bpe.mjs";
import { countWords } from "./english.mjs";
import { corpus, PLOTS, story } from "./make-corpus.mjs";
import { elementsOf, safetensors, storyConfig, tensorsOf } from "./make-model.mjs";
import { trainTokenizer, writeTokenizer } from "./make-tokenizer.mjs";
import { choices } from "./random.mjs";
import { writeWhole } from "./script.mjs";

const SEED = 7;
const { train, validation } = corpus(1500, SEED);
const ALL = [...train, ...validation];

/** Stories in which a pattern occurs. @param {RegExp} pattern */
const storiesWith = (pattern) => ALL.filter((text) => pattern.test(text));

/** @param {string} text */
const quotes = (text) => text.split('"').length - 1;

describe("corpus", () => {
  test("is the same for the same seed and another for another", () => {
    expect(corpus(200, SEED)).toEqual(corpus(200, SEED));
    expect(story(SEED, 5)).not.toBe(story(SEED + 1, 5));
  });

  test("has no story twice, within the files or between them", () => {
    expect(train.length + validation.length).toBe(1500);
    expect(validation.length).toBe(30);
    expect(new Set(ALL).size).toBe(1500);
  });

  test("stories have three paragraphs and 80 to 160 words", () => {
    for (const text of ALL) {
      expect(text.split("\n\n")).toHaveLength(3);
      expect(countWords(text)).toBeGreaterThanOrEqual(80);
      expect(countWords(text)).toBeLessThanOrEqual(160);
    }
  });

  test("every plot makes stories of a length that is kept", () => {
    for (const plot of PLOTS) {
      const lengths = Array.from({ length: 50 }, (_, seed) =>
        countWords(plot(choices(seed)).flat().join(" ")),
      );
      expect(lengths.filter((words) => words >= 80 && words <= 160).length, plot.name).toBeGreaterThan(25);
    }
  });

  test("no slot is left open, and spaces stand where they should", () => {
    expect(storiesWith(/undefined|NaN|\[object|[${}<>]/)).toEqual([]);
    expect(storiesWith(/ {2}| [,.!?;:]|[,;:]\w|^\s|\s$/)).toEqual([]);
    expect(storiesWith(/\b(\w+) \1\b/i)).toEqual([]);
  });

  test("articles fit the words after them", () => {
    expect(storiesWith(/\ba (?:[aeio]|hour|honest|u(?!ni|se))/i)).toEqual([]);
    expect(storiesWith(/\ban (?![aeiou]|hour|honest)/i)).toEqual([]);
  });

  test("sentences begin with a capital and end with a mark", () => {
    expect(storiesWith(/[.!?] [a-z]/)).toEqual([]);
    for (const paragraph of ALL.flatMap((text) => text.split("\n\n"))) {
      expect(paragraph).toMatch(/^["A-Z]/);
      expect(paragraph).toMatch(/[.!?]"?$/);
      expect(quotes(paragraph) % 2, paragraph).toBe(0);
    }
  });

  test("whoever is in the last paragraph has been in the story before", () => {
    for (const text of ALL) {
      const [first = "", second = "", last = ""] = text.split("\n\n");
      // A capital inside a sentence, or before a verb of speaking, is a name. "I" and the day are not.
      const names = [
        ...last.matchAll(/(?<=[a-z,] |[,?!]" (?:said|asked|cried|called|shouted) )([A-Z][a-z]+)\b/g),
      ]
        .map(([name]) => name)
        .filter((name) => name !== "Sunday");
      for (const name of names) expect(`${first} ${second}`, text).toContain(name);
    }
  });

  test("pronouns are those of the hero while nobody else has come", () => {
    const openings = ALL.map((text) =>
      /\b(girl|boy) named \w+(?: who lived [^.]*)?\. (She|He)\b/.exec(text),
    ).filter((opening) => opening !== null);
    expect(openings.length).toBeGreaterThan(100);
    for (const [words, noun, pronoun] of openings)
      expect(pronoun, words).toBe(noun === "girl" ? "She" : "He");
  });
});

describe("tokenizer", () => {
  const trained = trainTokenizer(train, 1024);
  /** @type {string} */
  let dir;
  /** @type {AutoTokenizer} */
  let tokenizer;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "spillway-story-"));
    await writeTokenizer(dir, trained);
    tokenizer = await AutoTokenizer.from_pretrained(dir);
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  test("merges the most frequent pair first, and the longer word out of the shorter", () => {
    expect(learnMerges(["hug hug hugs mug pun pun", "hug bun"], 3)).toEqual([
      ["u", "g"],
      ["h", "ug"],
      ["u", "n"],
    ]);
    expect(learnMerges(["ab"], 5)).toEqual([]);
  });

  test("is the same for the same texts", () => {
    expect(trainTokenizer(train, 1024)).toEqual(trained);
    expect(Object.keys(trained.model.vocab)).toHaveLength(1024);
  });

  test("has back what went in, whether it was in the corpus or not", () => {
    for (const text of [...ALL.slice(-300), "Größe 1,234 \u{1f98a}\t\n\n  it's  \u0000 \u{feff}"]) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });

  test("takes few tokens for a word", () => {
    const tokens = validation.reduce((sum, text) => sum + tokenizer.encode(text).length, 0);
    const words = validation.reduce((sum, text) => sum + countWords(text), 0);
    expect(tokens / words).toBeLessThan(1.6);
  });

  test("ends texts with <|endoftext|> and puts nothing before them", () => {
    expect(tokenizer.eos_token_ids).toEqual([0]);
    expect(tokenizer.encode("<|endoftext|>")).toEqual([0]);
    expect(tokenizer.bos_token_id).toBeUndefined();
    expect(tokenizer.encode("Tom")).not.toContain(0);
  });
});

describe("first weights", () => {
  const tensors = tensorsOf({ ...storyConfig(300, 0), num_hidden_layers: 1 });
  const file = safetensors(tensors, SEED);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerBytes));
  /** @param {string} name */
  const values = (name) => {
    const [from, to] = header[name].data_offsets;
    const at = 8 + headerBytes;
    return Array.from({ length: (to - from) / 4 }, (_, i) => file.readFloatLE(at + from + 4 * i));
  };
  /** @param {number[]} list */
  const deviation = (list) => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0) / list.length);

  test("are the same for the same seed and others for another", () => {
    expect(safetensors(tensors, SEED).equals(file)).toBe(true);
    expect(safetensors(tensors, SEED + 1).equals(file)).toBe(false);
  });

  test("fill the file to its last byte", () => {
    const bytes = 4 * tensors.reduce((sum, tensor) => sum + elementsOf(tensor), 0);
    expect(file.length).toBe(8 + headerBytes + bytes);
  });

  test("are small, smaller where layers add to the residual stream, and one in norms", () => {
    expect(deviation(values("model.embed_tokens.weight"))).toBeCloseTo(0.02, 3);
    expect(deviation(values("model.layers.0.mlp.down_proj.weight"))).toBeCloseTo(0.02 / Math.sqrt(2), 3);
    expect(new Set(values("model.norm.weight"))).toEqual(new Set([1]));
  });

  test("are 2.5 to 3.5 million with 2048 tokens", () => {
    const parameters = tensorsOf(storyConfig(2048, 0)).reduce((sum, tensor) => sum + elementsOf(tensor), 0);
    expect(parameters).toBe(2_755_008);
  });
});

test("a file that cannot be written leaves nothing behind", async () => {
  const dir = await mkdtemp(join(tmpdir(), "spillway-story-"));
  try {
    await writeFile(join(dir, "file"), "before");
    await expect(writeWhole(join(dir, "file", "below"), "text")).rejects.toThrow();
    expect(await readFile(join(dir, "file"), "utf8")).toBe("before");
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { CheckpointError, ConfigError, UnsupportedError } from "../../base/errors.ts";
import { AutoTokenizer } from "./tokenizer.ts";

const fixtures = join(import.meta.dirname, "../../../test/fixtures");
const byteLevelDir = join(fixtures, "checkpoints/llama");
const sentencePieceDir = join(fixtures, "tokenizers/sentencepiece-bpe");
const byteLevel = await AutoTokenizer.from_pretrained(byteLevelDir);
const sentencePiece = await AutoTokenizer.from_pretrained(sentencePieceDir);
const metaspace = await AutoTokenizer.from_pretrained(join(fixtures, "tokenizers/metaspace-unigram"));

const temporary: string[] = [];
afterEach(async () => {
  for (const dir of temporary.splice(0)) await rm(dir, { recursive: true });
});

/** A directory with these files: JSON values, or text as it is. */
async function directory(files: Record<string, unknown>, base?: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "spillway-tokenizer-"));
  temporary.push(dir);
  if (base !== undefined) await cp(join(base, "tokenizer.json"), join(dir, "tokenizer.json"));
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(dir, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return dir;
}

describe("encode and decode", () => {
  // Ids and texts printed by the reference implementation (Python tokenizers 0.23.2) for the same files
  test.each([
    ["hello wörld 🙂 你好", [260, 78, 350, 405, 130, 117, 84, 78, 70, 411, 250, 227, 223, 493]],
    ["a  b\n\n c\t", [67, 223, 267, 201, 201, 278, 200]],
    ["<|im_start|>user\nhi<|im_end|>\n", [1, 87, 85, 263, 201, 74, 75, 2, 201]],
    ["", []],
  ])("byte-level BPE: %j", (text, ids) => {
    expect(byteLevel.encode(text)).toEqual(ids);
    expect(byteLevel.decode(ids)).toBe(text);
  });

  test.each([
    ["Hello world", [1, 293, 289], "<s> Hello world"],
    [" Hello  the ee\n", [1, 259, 293, 259, 283, 259, 260, 260, 280], "<s>  Hello  the ee\n"],
    ["你好 🙂!", [1, 259, 278, 279, 259, 243, 162, 156, 133, 275], "<s> 你好 🙂!"],
    ["x\uFEFF y", [1, 259, 123, 242, 190, 194, 259, 124], "<s> x\uFEFF y"],
    ["", [1], "<s>"],
  ])("SentencePiece BPE with byte fallback: %j", (text, ids, decoded) => {
    expect(sentencePiece.encode(text)).toEqual(ids);
    expect(sentencePiece.encode(text, { add_special_tokens: false })).toEqual(ids.slice(1));
    expect(sentencePiece.decode(ids)).toBe(decoded);
    expect(sentencePiece.decode(ids, { skip_special_tokens: true })).toBe(text);
  });

  test.each([
    ["the quick brown fox.", [4, 5, 6, 7, 18, 1], "the quick brown fox."],
    ["thé 好 🙂 x", [3, 19, 20, 21, 3, 22, 3, 23, 3, 2, 1], "thé 好 🙂 "],
    ["  the</s>the", [3, 4, 1, 4, 1], " the the"],
  ])("Unigram with Metaspace: %j", (text, ids, decoded) => {
    expect(metaspace.encode(text)).toEqual(ids);
    expect(metaspace.decode(ids, { skip_special_tokens: true })).toBe(decoded);
  });

  test("ids without a token have no text, as a model's vocabulary may be padded", () => {
    expect(byteLevel.decode([5, 9999, 6])).toBe("#$");
    expect(byteLevel.decode([9999, -1, 0.5])).toBe("");
    expect(byteLevel.decode([])).toBe("");
  });

  test("spaces before punctuation stay, although the config asks to clean them up", () => {
    expect(sentencePiece.decode(sentencePiece.encode("Hello ? the !", { add_special_tokens: false }))).toBe(
      "Hello ? the !",
    );
  });

  test("calling the tokenizer gives what the models take", () => {
    expect(byteLevel("hi")).toEqual({ input_ids: [[74, 75]] });
    expect(sentencePiece(["Hello", "the"], { add_special_tokens: false })).toEqual({
      input_ids: [[293], [283]],
    });
    expect(byteLevel).toBeInstanceOf(AutoTokenizer);
  });

  test("what is not text, or not ids, is refused", async () => {
    expect(() => byteLevel.decode(7 as unknown as number[])).toThrow(ConfigError);
    await expect(AutoTokenizer.from_pretrained(undefined as unknown as string)).rejects.toThrow(ConfigError);
    expect(() => byteLevel.encode(undefined as unknown as string)).toThrow(ConfigError);
    expect(() => byteLevel(7 as unknown as string)).toThrow("must be a string or a list, got number");
  });
});

describe("vocabulary and special tokens", () => {
  test("tokens and ids", () => {
    expect(byteLevel.vocab_size).toBe(512);
    expect(byteLevel.id_to_token(2)).toBe("<|im_end|>");
    expect(byteLevel.token_to_id("<|im_end|>")).toBe(2);
    expect(byteLevel.id_to_token(512)).toBeUndefined();
    expect(byteLevel.token_to_id("no such token")).toBeUndefined();
  });

  test("generation_config.json wins over config.json, and that over the tokenizer's own", async () => {
    expect(sentencePiece.eos_token_ids).toEqual([2, 5]); // a list there, 7 in config.json, </s> in the tokens map
    expect(sentencePiece.bos_token_id).toBe(1);
    expect(sentencePiece.pad_token_id).toBeUndefined(); // -1 and null
    expect(metaspace.eos_token_ids).toEqual([1]); // no such files: </s> of tokenizer_config.json
    expect(metaspace.pad_token_id).toBe(0);
    const dir = await directory(
      { "config.json": { eos_token_id: 7 }, "tokenizer_config.json": { eos_token: "<s>" } },
      sentencePieceDir,
    );
    expect((await AutoTokenizer.from_pretrained(dir)).eos_token_ids).toEqual([7]);
  });

  test("a special token may be written as an object that holds its text", async () => {
    const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
    const dir = await directory({
      "tokenizer.json": {
        ...parts,
        model: { type: "WordLevel", unk_token: "<other>", vocab: { a: 0, "<other>": 1 } },
      },
      "tokenizer_config.json": { unk_token: { content: "<other>" }, eos_token: { content: "a" } },
    });
    const tokenizer = await AutoTokenizer.from_pretrained(dir);
    expect(tokenizer.encode("never seen")).toEqual([1]);
    expect(tokenizer.eos_token_ids).toEqual([0]);
  });

  test("a tokenizer.json alone is enough", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(await directory({}, byteLevelDir));
    expect(tokenizer.eos_token_ids).toEqual([]);
    expect(tokenizer.decode(tokenizer.encode("hi"))).toBe("hi");
  });
});

describe("files that cannot be used", () => {
  test("a missing tokenizer.json is named, with what can be done", async () => {
    const dir = await directory({ "vocab.json": {}, "merges.txt": "" });
    const loading = AutoTokenizer.from_pretrained(dir);
    await expect(loading).rejects.toThrow(CheckpointError);
    await expect(loading).rejects.toThrow(
      `${join(dir, "tokenizer.json")}: is missing, and vocab.json, merges.txt cannot be read in its place; ` +
        "write it with transformers: AutoTokenizer.from_pretrained(dir).save_pretrained(dir)",
    );
    await expect(AutoTokenizer.from_pretrained(await directory({}))).rejects.toThrow("copy it from where");
    await expect(AutoTokenizer.from_pretrained(join(dir, "nowhere"))).rejects.toThrow("is not a directory");
  });

  test.each([
    ["cut off", '{"version": "1.0", "model": {"ty', "is not valid JSON"],
    ["empty", "", "is not valid JSON"],
    ["not an object", "[]", "is not a JSON object"],
    [
      "without its parts",
      "{}",
      "is not a tokenizer that can be used (model must be an object, not undefined)",
    ],
    [
      "of an unknown kind",
      '{"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"Novel"}}',
      'is not a tokenizer that can be used (model.type must be one of BPE, Unigram, WordPiece, WordLevel, not "Novel")',
    ],
  ])("a tokenizer.json that is %s is a CheckpointError naming the file", async (_, content, message) => {
    const dir = await directory({ "tokenizer.json": content });
    const loading = AutoTokenizer.from_pretrained(dir);
    await expect(loading).rejects.toThrow(CheckpointError);
    await expect(loading).rejects.toMatchObject({ file: join(dir, "tokenizer.json") });
    await expect(loading).rejects.toThrow(message);
  });

  test("a folder in a file's place is named", async () => {
    const dir = await directory({}, byteLevelDir);
    await cp(byteLevelDir, join(dir, "tokenizer_config.json"), {
      recursive: true,
      filter: (path) => path === byteLevelDir,
    });
    const loading = AutoTokenizer.from_pretrained(dir);
    await expect(loading).rejects.toThrow(CheckpointError);
    await expect(loading).rejects.toThrow("tokenizer_config.json: is not a regular file but a directory");
  });

  test("a damaged tokenizer_config.json or config.json is named too", async () => {
    const damaged = await directory({ "tokenizer_config.json": "{" }, byteLevelDir);
    await expect(AutoTokenizer.from_pretrained(damaged)).rejects.toThrow(
      /tokenizer_config\.json: is not valid JSON/,
    );
    const wrong = await directory({ "config.json": { eos_token_id: "two" } }, byteLevelDir);
    await expect(AutoTokenizer.from_pretrained(wrong)).rejects.toThrow(
      'config.json: eos_token_id must be a token id or a list of them, got "two"',
    );
  });

  test("a token without an id is an error, not a hole in the ids", async () => {
    const json = JSON.parse(await readFile(join(byteLevelDir, "tokenizer.json"), "utf8"));
    json.post_processor = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<nowhere>", type_id: 0 } }],
    };
    const dir = await directory({ "tokenizer.json": json });
    const loading = AutoTokenizer.from_pretrained(dir);
    await expect(loading).rejects.toThrow(CheckpointError);
    await expect(loading).rejects.toThrow(
      'post_processor.single[0] names the token "<nowhere>", which special_tokens does not have',
    );
  });
});

describe("apply_chat_template", () => {
  const messages = [
    { role: "user", content: " hi " },
    { role: "assistant", content: "yo" },
  ];

  // Texts printed by the reference implementation (Python jinja2 3.1.6, set up as transformers does)
  test("writes the conversation as the model was trained on it", () => {
    expect(byteLevel.apply_chat_template(messages)).toBe(
      "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n",
    );
    expect(byteLevel.apply_chat_template(messages.slice(0, 1), { add_generation_prompt: true })).toBe(
      "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n",
    );
    expect(sentencePiece.apply_chat_template(messages)).toBe("<s>[INST] hi [/INST]yo</s>");
  });

  test("finds templates in each of the places they are kept in", async () => {
    const inJinja = await directory(
      { "chat_template.jinja": "jinja", "tokenizer_config.json": { chat_template: "config" } },
      byteLevelDir,
    );
    const inConfig = await directory(
      {
        "chat_template.json": { chat_template: "json" },
        "tokenizer_config.json": { chat_template: { default: "config" } },
      },
      byteLevelDir,
    );
    const inJson = await directory({ "chat_template.json": { chat_template: "json" } }, byteLevelDir);
    const rendered: string[] = [];
    for (const dir of [inJinja, inConfig, inJson]) {
      rendered.push((await AutoTokenizer.from_pretrained(dir)).apply_chat_template([]));
    }
    expect(rendered).toEqual(["jinja", "config", "json"]);
    const broken = await directory(
      { "tokenizer_config.json": { chat_template: [{ name: "default" }] } },
      byteLevelDir,
    );
    await expect(AutoTokenizer.from_pretrained(broken)).rejects.toThrow(
      "chat_template must be a template or a list",
    );
  });

  test("without a template says so, and what to do", () => {
    expect(() => metaspace.apply_chat_template(messages)).toThrow(UnsupportedError);
    expect(() => metaspace.apply_chat_template(messages)).toThrow(/no chat template.*encode the text itself/);
    expect(
      metaspace.apply_chat_template(messages, { chat_template: "{{ messages[1].content }}{{ eos_token }}" }),
    ).toBe("yo</s>");
  });
});

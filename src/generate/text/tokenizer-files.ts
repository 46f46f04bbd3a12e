// Finds and reads the files that make up a tokenizer. Says what is in them; what they mean is tokenizer.ts's business.
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ownTokenizer } from "../../adapters/own-tokenizer.ts";
import { CheckpointError } from "../../base/errors.ts";
import { statIfPresent, withFile } from "../../formats/files/files.ts";
import { LARGE_FILE_LIMIT } from "../../formats/files/json-files.ts";
import { isJsonObject, type JsonObject, readJsonFile, readTextFile } from "./json-file.ts";

export interface TokenizerFiles {
  /** Path of tokenizer.json. It is there and may be read; what is in it is read where a tokenizer is made of it. */
  readonly path: string;
  /** Bytes of tokenizer.json. */
  readonly bytes: number;
  /** tokenizer_config.json; empty if there is none. */
  readonly config: JsonObject;
  /** special_tokens_map.json and added_tokens.json, which older checkpoints have. */
  readonly specialTokensMap: JsonObject | undefined;
  readonly addedTokens: JsonObject | undefined;
  /** Special tokens' text by role: bos_token, eos_token, ... Roles that are not filled are absent. */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** Chat templates by name; a single one is "default". */
  readonly chatTemplates: ReadonlyMap<string, string>;
}

const ROLES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/** Files other libraries keep tokenizers in, with what is needed from them: a tokenizer.json. */
const OTHER_FORMATS = [
  "tokenizer.model",
  "spiece.model",
  "vocab.json",
  "merges.txt",
  "vocab.txt",
  "tekken.json",
];

async function templatesOf(dir: string): Promise<ReadonlyMap<string, string>> {
  return readChatTemplates(dir, (await readJsonFile(join(dir, "tokenizer_config.json"))) ?? {});
}

/**
 * Reads the tokenizer files of a checkpoint's directory. Where an adapter's folder has a tokenizer or a chat template of
 * its own, that counts: the adapter was trained with it.
 * @throws CheckpointError naming the file that is missing or malformed; IoError if one cannot be read
 */
export async function readTokenizerFiles(dir: string, adapter?: string): Promise<TokenizerFiles> {
  if (adapter !== undefined) {
    const own = await ownTokenizer(resolve(adapter));
    const files = await readTokenizerFiles(own.tokenizer ? adapter : dir);
    if (own.tokenizer === own.template) return files;
    return { ...files, chatTemplates: await templatesOf(own.template ? adapter : dir) };
  }
  const path = resolve(dir, "tokenizer.json");
  const [bytes, config = {}, specialTokensMap, addedTokens] = await Promise.all([
    sizeOfTokenizer(path, dir),
    readJsonFile(join(dir, "tokenizer_config.json")),
    readJsonFile(join(dir, "special_tokens_map.json")),
    readJsonFile(join(dir, "added_tokens.json")),
  ]);
  const specialTokens: Record<string, string> = {};
  for (const role of ROLES) {
    const text = tokenText(config[role]) ?? tokenText(specialTokensMap?.[role]);
    if (text !== undefined) specialTokens[role] = text;
  }
  return {
    path,
    bytes,
    config,
    specialTokensMap,
    addedTokens,
    specialTokens,
    chatTemplates: await readChatTemplates(dir, config),
  };
}

/** Bytes of tokenizer.json, which must be a file of a size that can be read. */
async function sizeOfTokenizer(path: string, dir: string): Promise<number> {
  if ((await statIfPresent(path)) === undefined)
    throw new CheckpointError(await whyMissing(dir), { file: path });
  const size = await withFile(path, async (_, stat) => stat.size);
  if (size <= LARGE_FILE_LIMIT) return size;
  throw new CheckpointError(`is ${size} bytes, more than the ${LARGE_FILE_LIMIT} that such a file may have`, {
    file: path,
  });
}

/** A special token is written as its text, or as an object that holds the text. */
function tokenText(value: unknown): string | undefined {
  const text = isJsonObject(value) ? value.content : value;
  return typeof text === "string" ? text : undefined;
}

/** Newer checkpoints have a file of their own for the template, which then counts. */
async function readChatTemplates(dir: string, config: JsonObject): Promise<Map<string, string>> {
  const jinja = await readTextFile(join(dir, "chat_template.jinja"));
  if (jinja !== undefined) return new Map([["default", jinja]]);
  const inConfig = namedTemplates(config.chat_template, resolve(dir, "tokenizer_config.json"));
  if (inConfig.size > 0) return inConfig;
  const path = resolve(dir, "chat_template.json");
  return namedTemplates((await readJsonFile(path))?.chat_template, path);
}

/** A template, a list of { name, template }, or an object of templates by name. */
function namedTemplates(value: unknown, file: string): Map<string, string> {
  if (value === undefined || value === null) return new Map();
  if (typeof value === "string") return new Map([["default", value]]);
  const entries: [unknown, unknown][] = Array.isArray(value)
    ? value.map((entry) => (isJsonObject(entry) ? [entry.name, entry.template] : [undefined, undefined]))
    : Object.entries(value);
  const templates = new Map<string, string>();
  for (const [name, template] of entries) {
    if (typeof name !== "string" || typeof template !== "string") {
      throw new CheckpointError("chat_template must be a template or a list of { name, template }", { file });
    }
    templates.set(name, template);
  }
  return templates;
}

async function whyMissing(dir: string): Promise<string> {
  let present: string[];
  try {
    present = await readdir(dir);
  } catch {
    return `is needed, but ${dir} is not a directory that can be read; give the directory that holds the checkpoint`;
  }
  const others = OTHER_FORMATS.filter((name) => present.includes(name));
  return others.length === 0
    ? "is missing and without it text cannot be tokenized; copy it from where the checkpoint comes from"
    : `is missing, and ${others.join(", ")} cannot be read in its place; write it with transformers: ` +
        "AutoTokenizer.from_pretrained(dir).save_pretrained(dir)";
}

// The end token that a tokenizer's files name, for checkpoints whose configs name none and for adapters that bring a
// tokenizer. Looked up without building the tokenizer, and only when a text is to be ended.
import { isJsonObject, type JsonObject } from "../base/json.ts";
import { LARGE_FILE_LIMIT, readJsonIfPresent } from "./files/json-files.ts";

/** Ids that end a text by tokenizer_config.json or special_tokens_map.json; empty where they name none. */
export async function tokenizerEndIds(dir: string): Promise<number[]> {
  const config = (await readJsonIfPresent(dir, "tokenizer_config.json")) ?? {};
  const map = (await readJsonIfPresent(dir, "special_tokens_map.json")) ?? {};
  const text = tokenText(config.eos_token) ?? tokenText(map.eos_token);
  if (text === undefined) return [];
  const added = isJsonObject(config.added_tokens_decoder) ? config.added_tokens_decoder : {};
  for (const [id, token] of Object.entries(added)) {
    if (tokenText(token) === text && /^\d+$/.test(id)) return [Number(id)];
  }
  const tokenizer = await readJsonIfPresent(dir, "tokenizer.json", LARGE_FILE_LIMIT);
  const id = tokenizer && idIn(tokenizer, text);
  return Number.isSafeInteger(id) && (id as number) >= 0 ? [id as number] : [];
}

/** The id of a token in tokenizer.json: among the added ones, else in the vocabulary, an object or a list with scores. */
function idIn(tokenizer: JsonObject, text: string): unknown {
  const added: unknown[] = Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens : [];
  const token = added.find((t) => tokenText(t) === text);
  if (isJsonObject(token)) return token.id;
  const vocab = isJsonObject(tokenizer.model) ? tokenizer.model.vocab : undefined;
  if (isJsonObject(vocab)) return Object.hasOwn(vocab, text) ? vocab[text] : undefined;
  if (!Array.isArray(vocab)) return undefined;
  const at = vocab.findIndex((entry) => Array.isArray(entry) && entry[0] === text);
  return at < 0 ? undefined : at;
}

/** A special token is written as its text, or as an object that holds the text. */
function tokenText(value: unknown): string | undefined {
  const text = isJsonObject(value) ? value.content : value;
  return typeof text === "string" ? text : undefined;
}

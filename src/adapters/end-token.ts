// Which tokens end a text that a model with an adapter writes, and how a merged model comes to stop at them too.
import { join } from "node:path";
import { isJsonObject, type JsonObject } from "../base/json.ts";
import { tokenizerEndIds } from "../formats/end-token.ts";
import { readJsonIfPresent } from "../formats/files/json-files.ts";
import { replaceFile } from "../formats/files/staged-file.ts";
import { ownTokenizer } from "./own-tokenizer.ts";

/** Files that name end tokens, in the order in which they count. */
const CONFIGS = ["generation_config.json", "config.json"];

/**
 * `configured`, which the configs in `dir` name, or what its tokenizer has where they name none; and the end token of the
 * tokenizer that an adapter brings: it was trained to end its texts with that one.
 */
export async function endIds(
  dir: string,
  configured: readonly number[],
  adapter?: string,
): Promise<readonly number[]> {
  const own = adapter === undefined ? [] : await adapterEndIds(adapter);
  const ids = configured.length > 0 ? configured : own.length > 0 ? [] : await tokenizerEndIds(dir);
  return [...new Set([...ids, ...own])];
}

/** Of the tokenizer in an adapter's folder; empty where there is none. */
async function adapterEndIds(adapter: string): Promise<readonly number[]> {
  return (await ownTokenizer(adapter)).tokenizer ? tokenizerEndIds(adapter) : [];
}

/** Adds the end token of the adapter's tokenizer to those that the configs of the merged model in `dir` name. */
export async function putEndIds(adapter: string, dir: string): Promise<void> {
  const own = await adapterEndIds(adapter);
  for (const name of CONFIGS) {
    const config = await readJsonIfPresent(dir, name);
    const named = endIdsIn(config);
    if (config === undefined || named.length === 0) continue;
    const missing = own.filter((id) => !named.includes(id));
    if (missing.length === 0) return;
    const changed = { ...config, eos_token_id: [...named, ...missing] };
    const bytes = new TextEncoder().encode(`${JSON.stringify(changed, null, 2)}\n`);
    return replaceFile(join(dir, name), bytes.length, (sink) => sink.append(bytes));
  }
}

/** -1 means none, as null does. */
function endIdsIn(config: JsonObject | undefined): unknown[] {
  if (!isJsonObject(config)) return [];
  return [config.eos_token_id ?? []].flat().filter((id) => typeof id === "number" && id >= 0);
}

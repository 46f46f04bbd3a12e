// What a checkpoint says about generating: token ids that begin, end and pad, and how tokens are chosen.
// Read without the tokenizer, so that a model can stop at the end token when it is given ids only.
import { join } from "node:path";
import { ConfigError } from "../base/errors.ts";
import { shown } from "../base/shown.ts";
import { fileNotes, GENERATION_OPTIONS, type RawValues } from "./settings/values.ts";
import { isJsonObject, type JsonObject, readJsonFile } from "./text/json-file.ts";

export interface GenerationConfig {
  readonly bos_token_id: number | undefined;
  /** Every id that ends a text; empty where the files name none. */
  readonly eos_token_ids: readonly number[];
  readonly pad_token_id: number | undefined;
  /** The rest, checked when it is used: settings/values.ts. */
  readonly values: RawValues;
  /** What the files say that is not used: see base/notes.ts. */
  readonly notes: readonly string[];
}

/**
 * Reads generation_config.json, and config.json for the ids it does not set. Both may be absent. Where there is no
 * generation_config.json, config.json's keys of that kind count, as older checkpoints have them.
 * @throws ConfigError if an id cannot be used; CheckpointError if a file is not JSON; IoError
 */
export async function readGenerationConfig(dir: string): Promise<GenerationConfig> {
  const [generation, config] = await Promise.all([
    readJsonFile(join(dir, "generation_config.json")),
    readJsonFile(join(dir, "config.json")),
  ]);
  const sources: [string, JsonObject][] = [];
  if (generation) sources.push(["generation_config.json", generation]);
  if (config) sources.push(["config.json", config]);
  // Vision-language checkpoints keep the language model's settings one level down.
  const inner = isJsonObject(config?.text_config) ? config.text_config : undefined;
  if (inner) sources.push(["config.json: text_config", inner]);

  const ids = (key: string): number[] => {
    for (const [file, json] of sources) {
      const found = tokenIds(json[key], `${file}: ${key}`);
      if (found.length > 0) return found;
    }
    return [];
  };
  const values = generation ?? legacyValues({ ...inner, ...config });
  return {
    bos_token_id: ids("bos_token_id")[0],
    eos_token_ids: ids("eos_token_id"),
    pad_token_id: ids("pad_token_id")[0],
    values,
    notes: fileNotes(values),
  };
}

/** Keys of generating among those of a model. */
function legacyValues(config: JsonObject): RawValues {
  const named = GENERATION_OPTIONS.filter((name) => Object.hasOwn(config, name));
  return Object.fromEntries(named.map((name) => [name, config[name]]));
}

/**
 * A number or a list of them. null means none, and so does -1, which older configs write.
 * @throws ConfigError naming `where`
 */
export function tokenIds(value: unknown, where: string): number[] {
  if (value === undefined || value === null) return [];
  const list: unknown[] = Array.isArray(value) ? value : [value];
  const ids: number[] = [];
  for (const id of list) {
    if (typeof id !== "number" || !Number.isSafeInteger(id)) {
      throw new ConfigError(`${where} must be a token id or a list of them, got ${shown(value)}`);
    }
    if (id >= 0 && !ids.includes(id)) ids.push(id);
  }
  return ids;
}

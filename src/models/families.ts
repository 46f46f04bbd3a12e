// The table of families. Adding one: a file that exports a Family, and a row here.

import { UnsupportedError } from "../base/errors.ts";
import { joinNotes, listed } from "../base/notes.ts";
import { shown } from "../base/shown.ts";
import { RawConfig } from "./config.ts";
import { gpt2 } from "./families/gpt2.ts";
import { llama } from "./families/llama.ts";
import { qwen2 } from "./families/qwen2.ts";
import { checkKeys } from "./keys.ts";
import type { Family, ModelSpec } from "./spec.ts";

export const FAMILIES: readonly Family[] = [gpt2, llama, qwen2];

/**
 * The model that a parsed config.json describes. Throws ConfigError and UnsupportedError that name the key; for a family
 * that is not there, the families there are.
 */
export function modelSpec(json: unknown, where = "config.json"): ModelSpec {
  const config = new RawConfig(json, where, "refused");
  const type = config.string("model_type");
  const family = FAMILIES.find((f) => f.model_type === type);
  if (!family) {
    const have = FAMILIES.map((f) => f.model_type).join(", ");
    throw new UnsupportedError(`${where}: model_type ${shown(type)} is not supported; supported: ${have}`);
  }
  const spec = family.spec(config);
  const { defaulted } = config;
  const own =
    defaulted.length > 0 ? [`${where}: not named, so ${type}'s defaults: ${listed(defaulted)}`] : [];
  return { ...spec, defaulted, notes: joinNotes(own, spec.notes, checkKeys(config, type)) };
}

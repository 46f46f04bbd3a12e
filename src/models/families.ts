// The table of families. Adding one: a file that exports a Family, and a row here.
import { UnsupportedError } from "../errors.ts";
import { RawConfig } from "./config.ts";
import { gpt2 } from "./gpt2.ts";
import { llama } from "./llama.ts";
import { qwen2 } from "./qwen2.ts";
import type { Family, ModelSpec } from "./spec.ts";

export const FAMILIES: readonly Family[] = [gpt2, llama, qwen2];

/** The model that a parsed config.json describes. Throws UnsupportedError that lists the families there are. */
export function modelSpec(json: unknown, where = "config.json"): ModelSpec {
  const config = new RawConfig(json, where);
  const type = config.string("model_type");
  const family = FAMILIES.find((f) => f.model_type === type);
  if (!family) {
    const have = FAMILIES.map((f) => f.model_type).join(", ");
    throw new UnsupportedError(`${where}: model_type "${type}" is not supported; supported: ${have}`);
  }
  return family.spec(config);
}

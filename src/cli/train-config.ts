// The config file of spillway train: a JSON object whose keys are the options' names. Knows keys and kinds of values;
// what a value does is said by whoever uses it.
import { readJsonObject } from "../checkpoint/json-files.ts";
import { ConfigError } from "../errors.ts";
import type { Kind } from "./train-kinds.ts";
import { TRAIN_OPTION_NAMES, TRAIN_OPTIONS, type TrainConfig } from "./train-options.ts";

/** What a config file says. MODEL is an argument on the command line and a key here. */
export interface ConfigFile {
  readonly model: string | undefined;
  readonly config: TrainConfig;
}

/**
 * Reads a config file. Throws CheckpointError where there is none or it is no JSON object, ConfigError for a key that is
 * no option (with the one that was probably meant) and for a value of the wrong kind.
 */
export async function readTrainConfig(path: string): Promise<ConfigFile> {
  return parseTrainConfig(await readJsonObject(path), path);
}

export function parseTrainConfig(object: Readonly<Record<string, unknown>>, path: string): ConfigFile {
  const config: Record<string, unknown> = {};
  let model: string | undefined;
  for (const [key, value] of Object.entries(object)) {
    if (key === "model") {
      if (typeof value !== "string" || value === "")
        throw new ConfigError(
          `${path}: model is ${JSON.stringify(value)}, expected the directory of a checkpoint`,
        );
      model = value;
    } else if (Object.hasOwn(TRAIN_OPTIONS, key)) {
      const { kind } = TRAIN_OPTIONS[key as keyof typeof TRAIN_OPTIONS] as { kind: Kind<unknown> };
      try {
        config[key] = kind.json(value);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        throw new ConfigError(`${path}: ${key} is ${JSON.stringify(value)}. ${reason}`, { cause: error });
      }
    } else {
      const meant = nearest(key.replace(/^-+/, "").replaceAll("-", "_"), ["model", ...TRAIN_OPTION_NAMES]);
      const hint = meant === undefined ? "`spillway train --help` lists them" : `did you mean "${meant}"?`;
      throw new ConfigError(`${path}: "${key}" is no option of training; ${hint}`);
    }
  }
  return { model, config: config as TrainConfig };
}

/** The name with the fewest edits, if they are few: at most a third of its letters, at least one. */
export function nearest(word: string, names: readonly string[]): string | undefined {
  let best: { name: string; edits: number } | undefined;
  for (const name of names) {
    const edits = editDistance(word, name);
    if (
      edits <= Math.max(1, Math.floor(name.length / 3)) &&
      edits < (best?.edits ?? Number.POSITIVE_INFINITY)
    )
      best = { name, edits };
  }
  return best?.name;
}

/** Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last: number[] = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let edits = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        edits = Math.min(edits, before[j - 2]! + 1);
      row.push(edits);
    }
    before = last;
    last = row;
  }
  return last[b.length]!;
}

// The config file of spillway train: a JSON object whose keys are the options' names. Knows keys and kinds of values;
// what a value does is said by whoever uses it.

import { ConfigError } from "../../base/errors.ts";
import { nearest } from "../../base/nearest.ts";
import { shown } from "../../base/shown.ts";
import { readJsonObject } from "../../formats/files/json-files.ts";
import type { OptionKind } from "./train-kinds.ts";
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
        throw new ConfigError(`${path}: model is ${shown(value)}, expected the directory of a checkpoint`);
      model = value;
    } else if (Object.hasOwn(TRAIN_OPTIONS, key)) {
      const { kind } = TRAIN_OPTIONS[key as keyof typeof TRAIN_OPTIONS] as { kind: OptionKind<unknown> };
      try {
        config[key] = kind.json(value);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        throw new ConfigError(`${path}: ${key} is ${shown(value)}. ${reason}`, { cause: error });
      }
    } else {
      const meant = nearest(key, ["model", ...TRAIN_OPTION_NAMES]);
      const hint = meant === undefined ? "`spillway train --help` lists them" : `did you mean "${meant}"?`;
      throw new ConfigError(`${path}: ${shown(key)} is no option of training; ${hint}`);
    }
  }
  return { model, config: config as TrainConfig };
}

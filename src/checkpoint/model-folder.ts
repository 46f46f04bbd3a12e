// Folders of models in the Hub's layout beside their weights: config.json, tokenizer, generation settings.
import { copyFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { IoError, SpillwayError } from "../errors.ts";
import { listFolder } from "./files.ts";
import { WEIGHT_FILES } from "./open.ts";
import { replaceFile } from "./staged-file.ts";

const CONFIG = "config.json";

/** The keys by which config.json says which type the weights have: "torch_dtype", since transformers 5 "dtype". */
export function namedDType(config: Readonly<Record<string, unknown>>, dtype: string): Record<string, string> {
  const keys = ["torch_dtype", "dtype"].filter((key) => Object.hasOwn(config, key));
  return Object.fromEntries(keys.map((key) => [key, dtype]));
}

/** Copies the files beside the weights, of whatever format. config.json is written as `config` says where it changes. */
export async function copyOthers(from: string, to: string, config: object, changed: boolean): Promise<void> {
  for (const name of await listFolder(from)) {
    if (name.startsWith(".") || WEIGHT_FILES.test(name) || (changed && name === CONFIG)) continue;
    const path = join(from, name);
    await refused("could not be copied", path, async () => {
      if ((await stat(path)).isFile()) await copyFile(path, join(to, name));
    });
  }
  if (!changed) return;
  const json = new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`);
  await replaceFile(join(to, CONFIG), json.length, (sink) => sink.append(json));
}

/** Awaits calls of the system; their refusal becomes an IoError. */
export async function refused<T>(problem: string, path: string, calls: () => Promise<T>): Promise<T> {
  try {
    return await calls();
  } catch (error) {
    if (error instanceof SpillwayError) throw error;
    const detail = error instanceof Error ? error.message : String(error);
    throw new IoError(`${problem} (${detail})`, path, { cause: error });
  }
}

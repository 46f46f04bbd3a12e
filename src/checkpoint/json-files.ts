// Loads the JSON files beside the weights: config.json, generation_config.json, tokenizer_config.json.
// What the values mean is decided by their readers (models/, generate/), not here.
import { join } from "node:path";
import { CheckpointError } from "../errors.ts";
import { readExactly, statIfPresent, withFile } from "./files.ts";

/** The largest published tokenizer.json is about 35 MB. */
const MAX_JSON_FILE = 256 * 2 ** 20;

/** Reads a whole UTF-8 text file of at most `limit` bytes. Throws CheckpointError or IoError naming it. */
export async function readText(path: string, limit: number = MAX_JSON_FILE): Promise<string> {
  const bytes = await withFile(path, async (handle, { size }) => {
    if (size > limit) {
      throw new CheckpointError(`is ${size} bytes, more than the ${limit} read from such a file`, {
        file: path,
      });
    }
    const into = new Uint8Array(size);
    await readExactly(handle, into, 0, path);
    return into;
  });
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new CheckpointError("is not UTF-8 text", { file: path }, { cause: error });
  }
}

/** Reads a JSON file whose top level is an object. Throws CheckpointError naming the file. */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  const text = await readText(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new CheckpointError(`is not valid JSON (${detail})`, { file: path }, { cause: error });
  }
  if (!isObject(value)) throw new CheckpointError("is not a JSON object", { file: path });
  return value;
}

/** `config.json` of the checkpoint folder `dir`. Throws CheckpointError if it is missing or malformed. */
export async function readConfigJson(dir: string): Promise<Record<string, unknown>> {
  const config = await readJsonIfPresent(dir, "config.json");
  if (config === undefined) {
    throw new CheckpointError(
      "does not exist: it says which model the weights belong to; copy it from where the weights came from",
      { file: join(dir, "config.json") },
    );
  }
  return config;
}

/** The JSON object in `dir`/`name`, or undefined where there is no such file. Throws CheckpointError if malformed. */
export async function readJsonIfPresent(
  dir: string,
  name: string,
): Promise<Record<string, unknown> | undefined> {
  const path = join(dir, name);
  return (await statIfPresent(path)) === undefined ? undefined : readJsonObject(path);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

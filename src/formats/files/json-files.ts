// Loads the JSON and text files beside the weights, of a bounded size and from regular files only.
// What the values mean is decided by their readers (models/, generate/, adapters/), not here.
import { join } from "node:path";
import { CheckpointError } from "../../base/errors.ts";
import { isJsonObject, type JsonObject, parseJson } from "../../base/json.ts";
import { readExactly, statIfPresent, withFile } from "./files.ts";

/** Of config.json and its like: the largest published one, with a long quantization list, is below 2 MiB. */
export const SMALL_FILE_LIMIT = 16 * 2 ** 20;

/** Of tokenizer.json (35 MB at most among the published ones) and of an index of shards. */
export const LARGE_FILE_LIMIT = 256 * 2 ** 20;

/**
 * Reads a whole UTF-8 text file of at most `limit` bytes.
 * Throws CheckpointError (missing, no regular file, too large, not UTF-8) or IoError, naming it.
 */
export async function readText(path: string, limit: number = SMALL_FILE_LIMIT): Promise<string> {
  const bytes = await withFile(path, async (handle, { size }) => {
    if (size > limit) {
      throw new CheckpointError(`is ${size} bytes, more than the ${limit} that such a file may have`, {
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
export async function readJsonObject(path: string, limit: number = SMALL_FILE_LIMIT): Promise<JsonObject> {
  const text = await readText(path, limit);
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new CheckpointError(
      `is not valid JSON (${detail}); copy the file again, it may be cut off`,
      { file: path },
      { cause: error },
    );
  }
  if (!isJsonObject(value)) throw new CheckpointError("is not a JSON object", { file: path });
  return value;
}

/** `config.json` of the checkpoint folder `dir`. Throws CheckpointError if it is missing or malformed. */
export async function readConfigJson(dir: string): Promise<JsonObject> {
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
  limit: number = SMALL_FILE_LIMIT,
): Promise<JsonObject | undefined> {
  const path = join(dir, name);
  return (await statIfPresent(path)) === undefined ? undefined : readJsonObject(path, limit);
}

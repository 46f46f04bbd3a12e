// The small JSON and text files that lie beside a model's weights and may be missing. How they are read, and within which
// limits, is checkpoint/json-files.ts.
import { basename, dirname } from "node:path";
import type { JsonObject } from "../../base/json.ts";
import { statIfPresent } from "../../formats/files/files.ts";
import { readJsonIfPresent, readText } from "../../formats/files/json-files.ts";

export { isJsonObject, type JsonObject } from "../../base/json.ts";

/**
 * The text of a file, undefined if there is none.
 * @throws CheckpointError if it is too large or not text; IoError if it is there but cannot be read
 */
export async function readTextFile(path: string, limit?: number): Promise<string | undefined> {
  return (await statIfPresent(path)) === undefined ? undefined : readText(path, limit);
}

/**
 * The object in a JSON file, undefined if there is no such file.
 * @throws CheckpointError if it is too large, not JSON or not an object; IoError if it cannot be read
 */
export function readJsonFile(path: string, limit?: number): Promise<JsonObject | undefined> {
  return readJsonIfPresent(dirname(path), basename(path), limit);
}

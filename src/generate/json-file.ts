// Reads the small JSON and text files that lie beside a model's weights. Checks only that they are what they claim to be.
import { readFile } from "node:fs/promises";
import { CheckpointError, IoError } from "../errors.ts";

export type JsonObject = Record<string, unknown>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The text of a file, undefined if there is none.
 * @throws IoError if it is there but cannot be read
 */
export async function readTextFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new IoError(`cannot be read (${error instanceof Error ? error.message : error})`, path, {
      cause: error,
    });
  }
}

/**
 * The object in a JSON file, undefined if there is no such file.
 * @throws CheckpointError if it is not JSON or not an object; IoError if it cannot be read
 */
export async function readJsonFile(path: string): Promise<JsonObject | undefined> {
  const text = await readTextFile(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CheckpointError(
      `is not JSON (${reason}); copy the file again, it may be cut off`,
      { file: path },
      { cause: error },
    );
  }
  if (!isJsonObject(value)) throw new CheckpointError("must hold a JSON object", { file: path });
  return value;
}

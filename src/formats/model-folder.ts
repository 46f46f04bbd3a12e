// Folders of models in the Hub's layout beside their weights: config.json, tokenizer, generation settings.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { IoError, SpillwayError } from "../base/errors.ts";
import { listFolder, readExactly, withFile } from "./files/files.ts";
import { replaceFile } from "./files/staged-file.ts";
import { WEIGHT_FILES } from "./open.ts";

const CONFIG = "config.json";

/** The keys by which config.json says which type the weights have: "torch_dtype", since transformers 5 "dtype". */
export function namedDType(config: Readonly<Record<string, unknown>>, dtype: string): Record<string, string> {
  const keys = ["torch_dtype", "dtype"].filter((key) => Object.hasOwn(config, key));
  return Object.fromEntries(keys.map((key) => [key, dtype]));
}

/**
 * Files beside the weights that belong to any model made of this one. Everything else may say what the folder is (an
 * adapter's config, a trainer's state, another library's index) and is left out.
 */
const BELONGING: readonly RegExp[] = [
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json$/,
  /^(chat_template\.(jinja|json)|merges\.txt|vocab\.txt|[\w.-]+\.tiktoken|tekken\.json)$/,
  /^((tokenizer|spiece|sentencepiece|sentencepiece\.bpe)\.model)$/,
  /^(preprocessor_config|processor_config)\.json$/,
  /^(readme|license|licence|notice|use_policy|copyright|acceptable_use_policy)([._-][\w.-]*)?$/i,
];
/** Code that config.json or tokenizer_config.json names. */
const CODE = /^\w+\.py$/;

/** Names of files in a model's folder that are copied with its weights, and of those that are not. */
export async function filesBeside(
  from: string,
  config: Readonly<Record<string, unknown>>,
): Promise<{ copied: string[]; left: string[] }> {
  const copied: string[] = [];
  const left: string[] = [];
  const ownCode = Object.hasOwn(config, "auto_map");
  for (const name of await listFolder(from)) {
    if (name.startsWith(".") || WEIGHT_FILES.test(name)) continue;
    const path = join(from, name);
    const isFile = await refused("could not be looked at", path, async () => (await stat(path)).isFile());
    if (!isFile) continue;
    const belongs = BELONGING.some((pattern) => pattern.test(name)) || (ownCode && CODE.test(name));
    (belongs ? copied : left).push(name);
  }
  return { copied, left };
}

/** Bytes of a file that are in memory at a time while it is copied. */
const COPIED_AT_ONCE = 4 * 2 ** 20;

/**
 * Copies the files beside the weights that belong to a model; config.json is written as `config` says where it changes.
 * Resolves to the names of those it leaves out.
 */
export async function copyOthers(
  from: string,
  to: string,
  config: Readonly<Record<string, unknown>>,
  changed: boolean,
): Promise<string[]> {
  const { copied, left } = await filesBeside(from, config);
  for (const name of copied) {
    if (changed && name === CONFIG) continue;
    const path = join(from, name);
    await refused("could not be copied", path, async () => {
      await withFile(path, async (handle, { size }) => {
        const piece = new Uint8Array(Math.min(size, COPIED_AT_ONCE));
        await replaceFile(join(to, name), size, async (sink) => {
          for (let at = 0; at < size; at += piece.length) {
            const some = piece.subarray(0, Math.min(piece.length, size - at));
            await readExactly(handle, some, at, path);
            await sink.append(some);
          }
        });
      });
    });
  }
  if (changed) {
    const json = new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`);
    await replaceFile(join(to, CONFIG), json.length, (sink) => sink.append(json));
  }
  return left;
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

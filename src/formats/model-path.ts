// What a path is that was given as a model: one check in front of everything that opens one, so that a GGUF file, a cache, an
// adapter or an unfinished download is called what it is before anything else is complained about.
// It judges names, links and the first bytes of small files; what the files mean is decided by their readers.
import { lstat, readlink } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointError, ConfigError, UnsupportedError } from "../base/errors.ts";
import { isJsonObject } from "../base/json.ts";
import { listed } from "../base/notes.ts";
import { printable, shown } from "../base/shown.ts";
import { mapBounded } from "./concurrency.ts";
import { listFolder, readFailure, statIfPresent, withFile } from "./files/files.ts";
import { readJsonIfPresent } from "./files/json-files.ts";
import { namedQuantization } from "./quantization.ts";

/** What every sentence ends in: the thing that would have worked. */
const WANTED = "give the directory that holds config.json and model.safetensors (or its shards)";

/** Files that stand in for a missing one are small: a pointer has 130 bytes, a web page a few hundred thousand. */
const STAND_IN_LIMIT = 8 * 2 ** 20;
const LFS_POINTER = "version https://git-lfs";
const CHECKED_AT_ONCE = 8;

/** Formats of weights that people have, by the end of a file's name, and what to do about each. */
const OTHER_FORMATS: readonly [RegExp, string, string][] = [
  [/\.gguf$/i, "a GGUF file", "GGUF is not read yet: take the same model as safetensors"],
  [
    /\.(bin|pt|pth|ckpt)$/i,
    "a PyTorch pickle",
    "pickles can run code when they are read, so they are not: convert with transformers, " +
      "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)",
  ],
  [
    /\.(h5|msgpack|onnx|npz|tflite|mlmodel|engine)$/i,
    "weights of another framework",
    "take the model as safetensors",
  ],
];

/**
 * Throws what `path` is, where it is not a folder with a model that may be opened: ConfigError for what is no path,
 * CheckpointError for what is missing, incomplete or not a model, UnsupportedError for models in other formats.
 */
export async function requireModelFolder(path: unknown): Promise<void> {
  if (typeof path !== "string" || path === "" || path.includes("\0")) {
    throw new ConfigError(`a model is named by the path of its folder, got ${shown(path)}; ${WANTED}`);
  }
  const stats = await statIfPresent(path);
  if (stats === undefined) throw await whyAbsent(path, WANTED);
  if (!stats.isDirectory()) throw stats.isFile() ? await whatFile(path) : notAFile(path);
  const names = await listFolder(path);
  await requireContents(path, names);
  if (!names.includes("config.json")) throw await whyNoConfig(path, names);
  await requireWeights(path, names);
  await requireUnquantized(path);
}

/** Throws what `dir` is, where it holds no PEFT adapter: a whole model, an unfinished download. */
export async function requireAdapterFolder(dir: unknown): Promise<void> {
  if (typeof dir !== "string" || dir === "" || dir.includes("\0"))
    throw new ConfigError(`an adapter is named by the path of its folder, got ${shown(dir)}`);
  const wanted =
    "name the folder that PEFT's save_pretrained wrote: adapter_config.json, adapter_model.safetensors";
  const stats = await statIfPresent(dir);
  if (stats === undefined) throw await whyAbsent(dir, wanted);
  if (!stats.isDirectory()) throw new CheckpointError(`is not a folder; ${wanted}`, { file: dir });
  const names = await listFolder(dir);
  await requireContents(dir, names);
  if (names.includes("adapter_config.json")) return;
  const what = names.includes("config.json") ? "holds a whole model, not an adapter" : "holds no adapter";
  throw new CheckpointError(`${what}; ${wanted}`, { file: dir });
}

/** Nothing is at `path`: a link to nowhere, a name of the Hub, an address, or a mistake. */
async function whyAbsent(path: string, wanted: string): Promise<Error> {
  const target = await readlink(path).catch(() => undefined);
  if (target !== undefined) {
    return new CheckpointError(`is a link to ${printable(target, 200)}, where nothing is`, { file: path });
  }
  if (/^(https?|hf):\/\//.test(path)) {
    return new CheckpointError(`is an address; download the model and ${wanted}`, { file: path });
  }
  const onHub = /^([\w-][\w.-]*\/[\w.-]+?)(:[\w.-]+)?$/.exec(path);
  if (onHub?.[2] !== undefined) {
    return new UnsupportedError(
      `${path} names a quantized GGUF on the Hub, and GGUF is not read yet: ` +
        `hf download ${onHub[1]} --local-dir DIR fetches the whole model; then ${wanted}`,
    );
  }
  const fetch = onHub ? `. To fetch it from the Hub: hf download ${path} --local-dir DIR` : "";
  return new CheckpointError(`does not exist; ${wanted}${fetch}`, { file: path });
}

function notAFile(path: string): Error {
  return new CheckpointError(`is a pipe or a device, not a folder; ${WANTED}`, { file: path });
}

async function whatFile(path: string): Promise<Error> {
  const start = await firstBytes(path);
  const standIn = standInProblem(start);
  if (standIn) return new CheckpointError(standIn, { file: path });
  if (start.startsWith("GGUF")) return otherFormat(path, OTHER_FORMATS[0] as (typeof OTHER_FORMATS)[0]);
  const format = OTHER_FORMATS.find(([names]) => names.test(path));
  if (format) return otherFormat(path, format);
  const what = /\.safetensors$/.test(path)
    ? "holds weights, but which model they belong to stands in the config.json beside it"
    : "is a file, not a folder";
  return new CheckpointError(`${what}; ${WANTED}`, { file: path });
}

function otherFormat(path: string, [, what, advice]: (typeof OTHER_FORMATS)[number]): Error {
  return new UnsupportedError(`${path} is ${what}; ${advice}`);
}

/** Links that lead nowhere, pointers of Git LFS and web pages that were saved in a file's place. */
async function requireContents(dir: string, names: readonly string[]): Promise<void> {
  const looked = names.filter((name) => /\.(json|safetensors|jinja|model|txt|bin|gguf)$/.test(name));
  await mapBounded(looked, CHECKED_AT_ONCE, async (name) => {
    const path = join(dir, name);
    const stats = await statIfPresent(path);
    if (stats === undefined) {
      const target = await readlink(path).catch(() => undefined);
      if (target === undefined) return; // gone since the folder was listed
      throw new CheckpointError(
        `is a link to ${printable(target, 200)}, where nothing is: the download or the copy is incomplete`,
        { file: path },
      );
    }
    if (!stats.isFile() || stats.size > STAND_IN_LIMIT || stats.size === 0) return;
    const problem = standInProblem(await firstBytes(path));
    if (problem) throw new CheckpointError(problem, { file: path });
  });
}

function standInProblem(start: string): string | undefined {
  if (start.startsWith(LFS_POINTER)) {
    return "is a Git LFS pointer, not the file itself: run `git lfs pull` in the folder, or download it again";
  }
  if (/^\s*<(!doctype html|html|\?xml|head)\b/i.test(start)) {
    return "is a web page that was saved in the file's place: download the file itself (on the Hub: /resolve/, not /blob/)";
  }
  return undefined;
}

async function firstBytes(path: string): Promise<string> {
  return withFile(path, async (handle) => {
    const into = new Uint8Array(128);
    const { bytesRead } = await handle.read(into, 0, into.length, 0);
    return Buffer.from(into.buffer, 0, bytesRead).toString("latin1");
  });
}

/** A folder without config.json: what it is instead. */
async function whyNoConfig(dir: string, names: readonly string[]): Promise<Error> {
  const at = { file: dir };
  if (names.length === 0) return new CheckpointError(`is empty; ${WANTED}`, at);
  const cache = await whyCache(dir, names);
  if (cache) return cache;
  if (names.includes("adapter_config.json")) {
    const base = await readJsonIfPresent(dir, "adapter_config.json").catch(() => undefined);
    const name = base?.base_model_name_or_path;
    const of = typeof name === "string" && name !== "" ? ` of ${printable(name, 100)}` : "";
    return new CheckpointError(
      `holds an adapter${of}, not a model: open the model it belongs to, with the adapter beside it (adapter, --adapter)`,
      at,
    );
  }
  for (const format of OTHER_FORMATS) {
    const found = names.filter((name) => format[0].test(name));
    if (found.length > 0) {
      return new UnsupportedError(`${dir} holds ${format[1]} (${listed(found)}); ${format[2]}`);
    }
  }
  if (names.includes("model_index.json"))
    return new UnsupportedError(`${dir} holds a diffusion pipeline, not a language model; ${WANTED}`);
  const unfinished = names.filter((name) => /\.(incomplete|part|crdownload|aria2|tmp)$/.test(name));
  if (unfinished.length > 0)
    return new CheckpointError(`holds an unfinished download (${listed(unfinished)}); finish it`, at);
  if (names.some((name) => name.endsWith(".safetensors"))) {
    return new CheckpointError(
      "does not exist: it says which model the weights belong to; copy it from where the weights came from",
      { file: join(dir, "config.json") },
    );
  }
  const inside = await firstFolderWithModel(dir, names);
  if (inside) return new CheckpointError(`holds no model itself, but ${inside} does: give that folder`, at);
  return new CheckpointError(`holds no model: it has ${listed(names, 5)}; ${WANTED}`, at);
}

/** The cache of the Hub, at any of its levels: models are in snapshots of it. */
async function whyCache(dir: string, names: readonly string[]): Promise<Error | undefined> {
  const at = { file: dir };
  const models = names.filter((name) => name.startsWith("models--"));
  if (models.length > 0) {
    const [first = ""] = models;
    const snapshot = await newestSnapshot(join(dir, first));
    const known = listed(models.map((name) => name.slice("models--".length).replace("--", "/")));
    return new CheckpointError(
      `is the Hub's cache, with ${known}; give a model's snapshot in it: ${snapshot ?? join(dir, first, "snapshots", "REVISION")}`,
      at,
    );
  }
  if (names.includes("snapshots") && (names.includes("refs") || names.includes("blobs"))) {
    const snapshot = await newestSnapshot(dir);
    return new CheckpointError(
      snapshot
        ? `is the Hub's cache of one model; give its snapshot: ${snapshot}`
        : "is the Hub's cache of one model, without a snapshot: the download is incomplete",
      at,
    );
  }
  if (names.includes("hub") && (await isFolder(join(dir, "hub")))) {
    const within = await listFolder(join(dir, "hub"));
    return whyCache(join(dir, "hub"), within);
  }
  return undefined;
}

async function newestSnapshot(model: string): Promise<string | undefined> {
  const at = join(model, "snapshots");
  if (!(await isFolder(at))) return undefined;
  let newest: { path: string; time: number } | undefined;
  for (const name of (await listFolder(at)).slice(0, 1000)) {
    const stats = await statIfPresent(join(at, name));
    if (stats?.isDirectory() && stats.mtimeMs > (newest?.time ?? -1))
      newest = { path: join(at, name), time: stats.mtimeMs };
  }
  return newest?.path;
}

async function firstFolderWithModel(dir: string, names: readonly string[]): Promise<string | undefined> {
  for (const name of names.slice(0, 50)) {
    const path = join(dir, name);
    if ((await isFolder(path)) && (await statIfPresent(join(path, "config.json"))) !== undefined) return path;
  }
  return undefined;
}

async function isFolder(path: string): Promise<boolean> {
  try {
    const stats = await lstat(path);
    return (
      stats.isDirectory() || (stats.isSymbolicLink() && (await statIfPresent(path))?.isDirectory() === true)
    );
  } catch (error) {
    const failure = readFailure(error, path);
    if (failure instanceof CheckpointError) return false;
    throw failure;
  }
}

/** A config.json without weights that are read: which there are instead. */
async function requireWeights(dir: string, names: readonly string[]): Promise<void> {
  if (names.some((name) => name.endsWith(".safetensors") && name !== "adapter_model.safetensors")) return;
  if (names.includes("model.safetensors.index.json")) return; // its shards are missing, and it names them
  const unfinished = names.filter((name) => /\.(incomplete|part|crdownload|aria2)$/.test(name));
  if (unfinished.length > 0)
    throw new CheckpointError(`holds an unfinished download (${listed(unfinished)}); finish it`, {
      file: dir,
    });
  for (const [files, what, advice] of OTHER_FORMATS) {
    const found = names.filter((name) => files.test(name));
    if (found.length > 0)
      throw new UnsupportedError(`${dir} has its weights as ${what} only (${listed(found)}); ${advice}`);
  }
  throw new CheckpointError(
    `holds no checkpoint this opens: found only ${listed(names, 8)}; what is read is model.safetensors, ` +
      "or model.safetensors.index.json with its shards",
    { file: dir },
  );
}

async function requireUnquantized(dir: string): Promise<void> {
  const config = await readJsonIfPresent(dir, "config.json");
  const text = isJsonObject(config?.text_config) ? config.text_config : undefined;
  const named = namedQuantization(config) ?? namedQuantization(text);
  if (named === undefined) return;
  throw new UnsupportedError(
    `${join(dir, "config.json")}: the weights are quantized (${named}), which is not read yet: ` +
      "take the model they were made from, in bfloat16 or float16 (base_model on its page on the Hub)",
  );
}

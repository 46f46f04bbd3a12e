// Checkpoints split over several safetensors files: the index that says which shard holds which tensor, and proof that
// the shards agree with it. Reads headers only.
import { isAbsolute, join, normalize, sep } from "node:path";
import { CheckpointError, throwIfAborted } from "../base/errors.ts";
import { mapBounded } from "./concurrency.ts";
import { statIfPresent } from "./files/files.ts";
import { LARGE_FILE_LIMIT, readText } from "./files/json-files.ts";
import { jsonMembers } from "./files/json-members.ts";
import { type ReadHeaderOptions, readSafetensors, type SafetensorsFile } from "./safetensors/safetensors.ts";

/** Headers read at a time. Bounds open files, and memory at 8 headers of at most 100 MB. */
const SHARDS_AT_ONCE = 8;

export interface Shards {
  /** In the order of their names. */
  readonly files: readonly SafetensorsFile[];
  /** Tensors about which index and shards disagree, and how. */
  readonly disputed: ReadonlyMap<string, string>;
}

/**
 * Reads the shards that the index names. Throws CheckpointError for a malformed index, shards that are missing or outside
 * `dir`, and, unless `tolerant`, any tensor that the index and the shards do not agree on.
 */
export async function readShards(
  dir: string,
  indexPath: string,
  options: ReadHeaderOptions = {},
): Promise<Shards> {
  throwIfAborted(options.signal);
  const weightMap = parseIndex(await readText(indexPath, LARGE_FILE_LIMIT), indexPath);
  const names = [...new Set(weightMap.values())].sort();
  const present = await mapBounded(names, SHARDS_AT_ONCE, async (name) => {
    throwIfAborted(options.signal);
    return (await statIfPresent(join(dir, name))) !== undefined;
  });
  const missing = names.filter((_, i) => !present[i]);
  if (missing.length > 0) {
    const listed = missing.slice(0, 4).join(", ") + (missing.length > 4 ? ", ..." : "");
    throw new CheckpointError(
      `${missing.length} of the ${names.length} shards it names are missing (${listed}): the download is incomplete`,
      { file: indexPath },
    );
  }
  const files = await mapBounded(names, SHARDS_AT_ONCE, (name) => readSafetensors(join(dir, name), options));
  const disputed = disagreements(weightMap, names, files);
  const [first] = disputed;
  if (first && !options.tolerant) throw new CheckpointError(first[1], { file: indexPath, tensor: first[0] });
  return { files, disputed };
}

/** The `weight_map` of an index: tensor name to shard file, a path inside the folder. Throws CheckpointError. */
export function parseIndex(text: string, indexPath: string): Map<string, string> {
  const bad = (problem: string, tensor?: string) =>
    new CheckpointError(problem, tensor === undefined ? { file: indexPath } : { file: indexPath, tensor });
  const parse = (json: string, problem: string, tensor?: string): unknown => {
    try {
      return JSON.parse(json);
    } catch {
      throw bad(problem, tensor);
    }
  };
  let weightMap: string | undefined;
  for (const member of jsonMembers(text, (problem) => bad(`the index ${problem}`))) {
    if (member.key === "weight_map") weightMap = member.text;
    else parse(member.text, `"${member.key}" is not valid JSON`);
  }
  if (weightMap === undefined) throw bad("the index has no weight_map");

  const shardOf = new Map<string, string>();
  for (const member of jsonMembers(weightMap, (problem, key) => bad(`weight_map ${problem}`, key))) {
    const problem = "weight_map does not give the name of a shard";
    const shard = member.text.startsWith('"') ? parse(member.text, problem, member.key) : undefined;
    if (typeof shard !== "string" || shard === "") throw bad(problem, member.key);
    if (!staysInside(shard)) {
      throw bad(`weight_map gives the shard ${JSON.stringify(shard)}, a path outside the folder`, member.key);
    }
    shardOf.set(member.key, shard);
  }
  if (shardOf.size === 0) throw bad("weight_map is empty");
  return shardOf;
}

/** Whether a relative path names something below the folder it is relative to, on this platform and on Windows. */
function staysInside(path: string): boolean {
  if (path.includes("\0") || isAbsolute(path) || /^[a-zA-Z]:|^[\\/]/.test(path)) return false;
  const steps = normalize(path.replaceAll("\\", "/")).split(sep);
  return !steps.includes("..") && steps.join() !== ".";
}

/** What index and shards disagree about: each tensor, and how. */
function disagreements(
  weightMap: ReadonlyMap<string, string>,
  names: readonly string[],
  shards: readonly SafetensorsFile[],
): Map<string, string> {
  const disputed = new Map<string, string>();
  const holders = new Map<string, number>();
  for (const [i, shard] of shards.entries()) {
    for (const tensor of namesIn(shard)) {
      const other = holders.get(tensor);
      if (other !== undefined) disputed.set(tensor, `is in two shards, ${names[other]} and ${names[i]}`);
      else holders.set(tensor, i);
    }
  }
  for (const [tensor, i] of holders) {
    if (disputed.has(tensor)) continue;
    const said = weightMap.get(tensor);
    if (said === undefined) disputed.set(tensor, `is in ${names[i]}, but the index does not name it`);
    else if (said !== names[i]) disputed.set(tensor, `is in ${names[i]}, but the index places it in ${said}`);
  }
  for (const [tensor, said] of weightMap) {
    if (!holders.has(tensor)) disputed.set(tensor, `the index places it in ${said}, which does not hold it`);
  }
  return disputed;
}

function* namesIn(shard: SafetensorsFile): Generator<string> {
  for (const { name } of shard.tensors) yield name;
  for (const { name } of shard.foreign) yield name;
  yield* shard.ignored;
}

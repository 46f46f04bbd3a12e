// Compares what a checkpoint holds with what its config says it must hold. Names and shapes only, before any allocation.
import { basename } from "node:path";
import { CheckpointError, UnsupportedError } from "../base/errors.ts";
import { counted, listed } from "../base/notes.ts";
import { matches } from "./safetensors/safetensors.ts";
import { type ModelModules, originOf } from "./surplus.ts";
import type { Checkpoint } from "./types.ts";

/** A tensor that the config calls for. */
export interface ExpectedTensor {
  readonly name: string;
  /** Dimensions, slowest-varying first. */
  readonly shape: readonly number[];
  /** The checkpoint may do without it (a tied head, say); if it is there, its shape must fit. */
  readonly optional?: boolean | undefined;
}

/** Problems listed in a message before the rest is only counted. */
const LISTED = 8;

export interface SkeletonOptions {
  /** Tensors that may be there without being called for, and are not worth a note. */
  readonly ignore?: readonly RegExp[] | undefined;
  /** Which others may. Default: none. */
  readonly modules?: ModelModules | undefined;
  /** What may explain a mismatch, for the error. */
  readonly hints?: readonly string[] | undefined;
}

/**
 * Throws one CheckpointError with every tensor that is missing, has another shape than the config calls for, is disputed
 * between index and shards, or is not called for and not to be passed over. Throws UnsupportedError for one that is called
 * for and has a type that is not read. Returns notes about what is passed over.
 */
export function checkSkeleton(
  checkpoint: Checkpoint,
  expected: Iterable<ExpectedTensor>,
  options: SkeletonOptions = {},
): string[] {
  const { foreign = new Map<string, never>(), disputed = new Map<string, string>() } = checkpoint;
  const missing: Problem[] = [];
  const misshapen: Problem[] = [];
  const unexpected: Problem[] = [];
  const known = new Set<string>();
  for (const { name, shape, optional } of expected) {
    known.add(name);
    refuseForeign(checkpoint, name);
    const entry = checkpoint.tensors.get(name);
    const dispute = disputed.get(name);
    if (dispute !== undefined) {
      missing.push({ tensor: name, what: `${name} ${dispute}` });
    } else if (entry === undefined) {
      if (!optional) missing.push({ tensor: name, what: `${name} [${shape}] is missing` });
    } else if (!sameShape(entry.shape, shape)) {
      const file = fileOf(checkpoint, entry.file);
      const what = `${name} is [${entry.shape}] in ${file}, the config calls for [${shape}]`;
      misshapen.push({ tensor: name, file, what });
    }
  }
  const passedOver: string[] = [];
  for (const { name, shape, file: index } of [...checkpoint.tensors.values(), ...foreign.values()]) {
    if (known.has(name) || options.ignore?.some((pattern) => matches(pattern, name))) continue;
    if (options.modules?.mayPassOver(name, shape)) {
      passedOver.push(name);
      continue;
    }
    const file = fileOf(checkpoint, index);
    unexpected.push({ tensor: name, file, what: `${name} [${shape}] in ${file} is not part of the model` });
  }
  const problems = [...misshapen, ...missing, ...unexpected];
  const first = problems[0];
  if (first === undefined) {
    const beside = [...disputed.keys()].filter((name) => !known.has(name));
    return surplusNotes(checkpoint, passedOver, beside);
  }
  const counts = [
    count(misshapen.length, "has another shape", "have another shape"),
    count(missing.length, "is missing", "are missing"),
    count(unexpected.length, "is not part of the model", "are not part of the model"),
  ].filter(Boolean);
  const lines = problems.slice(0, LISTED).map(({ what }) => `\n  ${what}`);
  if (problems.length > LISTED) lines.push(`\n  and ${problems.length - LISTED} more`);
  const origins = new Set(unexpected.map(({ tensor }) => originOf(tensor)));
  for (const hint of [...origins, ...(options.hints ?? [])])
    if (hint !== undefined) lines.push(`\n  ${hint}`);
  // The lines name file and tensor, so only the folder stands in front, unless there is just one place to name.
  const where =
    problems.length > 1
      ? { file: checkpoint.path }
      : { file: first.file ?? checkpoint.path, tensor: first.tensor };
  throw new CheckpointError(
    `the tensors do not fit config.json: ${counts.join(", ")}${lines.join("")}`,
    where,
  );
}

function refuseForeign(checkpoint: Checkpoint, name: string): void {
  const other = checkpoint.foreign?.get(name);
  if (!other) return;
  throw new UnsupportedError(
    `${fileOf(checkpoint, other.file)}: tensor ${name} is ${other.type}; weights of F64, F32, F16 and BF16 can be run: ` +
      "use the model's float32, float16 or bfloat16 checkpoint",
  );
}

function surplusNotes(
  checkpoint: Checkpoint,
  passedOver: readonly string[],
  disputed: readonly string[],
): string[] {
  const notes: string[] = [];
  const many = (names: readonly string[]) => counted(names.length, "tensor");
  const name = basename(checkpoint.path);
  if (passedOver.length > 0) {
    notes.push(`${name}: ignored ${many(passedOver)} the model does not have: ${listed(passedOver)}`);
  }
  if (disputed.length > 0) {
    const first = disputed[0] as string;
    const how =
      disputed.length === 1 ? `: ${first} ${checkpoint.disputed?.get(first)}` : `: ${listed(disputed)}`;
    notes.push(`${name}: index and shards disagree about ${many(disputed)} the model does not need${how}`);
  }
  return notes;
}

interface Problem {
  readonly tensor: string;
  readonly file?: string;
  readonly what: string;
}

function fileOf(checkpoint: Checkpoint, index: number): string {
  const path = checkpoint.files[index]?.path;
  return path === undefined ? checkpoint.path : basename(path);
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i]);
}

function count(n: number, one: string, many: string): string {
  return n === 0 ? "" : `${n} ${n === 1 ? one : many}`;
}

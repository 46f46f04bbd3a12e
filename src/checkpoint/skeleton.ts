// Compares what a checkpoint holds with what its config says it must hold. Names and shapes only, before any allocation.
import { basename } from "node:path";
import { CheckpointError } from "../errors.ts";
import { matches } from "./safetensors.ts";
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

/**
 * Throws one CheckpointError with every tensor that is missing, has another shape than the config calls for, or is not
 * called for at all. Tensors whose name matches one of `ignore` may be there without being called for.
 */
export function checkSkeleton(
  checkpoint: Checkpoint,
  expected: Iterable<ExpectedTensor>,
  options: { readonly ignore?: readonly RegExp[] | undefined } = {},
): void {
  const missing: Problem[] = [];
  const misshapen: Problem[] = [];
  const unexpected: Problem[] = [];
  const known = new Set<string>();
  for (const { name, shape, optional } of expected) {
    known.add(name);
    const entry = checkpoint.tensors.get(name);
    if (entry === undefined) {
      if (!optional) missing.push({ tensor: name, what: `${name} [${shape}] is missing` });
    } else if (!sameShape(entry.shape, shape)) {
      const file = fileOf(checkpoint, entry.file);
      const what = `${name} is [${entry.shape}] in ${file}, the config calls for [${shape}]`;
      misshapen.push({ tensor: name, file, what });
    }
  }
  for (const { name, shape, file: index } of checkpoint.tensors.values()) {
    if (known.has(name) || options.ignore?.some((pattern) => matches(pattern, name))) continue;
    const file = fileOf(checkpoint, index);
    unexpected.push({ tensor: name, file, what: `${name} [${shape}] in ${file} is not part of the model` });
  }
  const problems = [...misshapen, ...missing, ...unexpected];
  const first = problems[0];
  if (first === undefined) return;
  const counts = [
    count(misshapen.length, "has another shape", "have another shape"),
    count(missing.length, "is missing", "are missing"),
    count(unexpected.length, "is not part of the model", "are not part of the model"),
  ].filter(Boolean);
  const lines = problems.slice(0, LISTED).map(({ what }) => `\n  ${what}`);
  if (problems.length > LISTED) lines.push(`\n  and ${problems.length - LISTED} more`);
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

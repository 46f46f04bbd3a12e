// A base checkpoint with the parameters an adapter keeps whole in place of its own: one checkpoint over the files of
// both, so that what loads, streams, trains or converts weights need not know where they come from. No data is read.
// Whether a tie holds is decided here, for adapters that are opened, merged and trained.
import type { Checkpoint, TensorEntry } from "../formats/types.ts";
import type { ModelSpec, WeightSpec } from "../models/spec.ts";
import { resolveName } from "../models/ties.ts";
import type { Adapter } from "./files.ts";
import { savedName } from "./names.ts";

/** A model whose tensors may lie in files of two folders. */
export interface Joined {
  readonly checkpoint: Checkpoint;
  /** Without the ties that the adapter breaks. */
  readonly spec: ModelSpec;
}

/**
 * Breaks each tie of which one side is among `saved`, as PEFT does: what it trains whole is a copy, and the other side
 * keeps the base's values. `apart` names further aliases that must not be tied.
 */
export function breakTies(
  base: Checkpoint,
  spec: ModelSpec,
  saved: readonly Pick<WeightSpec, "name">[],
  apart: ReadonlySet<string> = new Set(),
): Joined {
  const names = new Set(saved.map(({ name }) => name));
  const broken = Object.entries(spec.tied).filter(
    ([alias, name]) => names.has(alias) || names.has(name) || apart.has(alias),
  );
  if (broken.length === 0) return { checkpoint: base, spec };
  const aliases = new Set(broken.map(([alias]) => alias));
  const tied = Object.fromEntries(Object.entries(spec.tied).filter(([alias]) => !aliases.has(alias)));
  const tensors = new Map(base.tensors);
  for (const [alias, name] of broken) {
    const shared = base.tensors.get(resolveName(spec, base, name));
    if (shared) tensors.set(alias, { ...shared, name: alias });
  }
  return { checkpoint: { ...base, tensors }, spec: { ...spec, tied } };
}

/** Puts what `adapter` keeps whole in the place of the base's, ties broken as {@link breakTies} does it. */
export function joinSaved(
  base: Checkpoint,
  spec: ModelSpec,
  adapter: Adapter,
  apart: ReadonlySet<string> = new Set(),
): Joined {
  const { saved, tables } = adapter;
  const own: ModelSpec = { ...adapter.spec, tied: spec.tied };
  const place = (into: Joined, { name }: WeightSpec, stored: string): Joined => {
    const entry = adapter.checkpoint.tensors.get(stored) as TensorEntry; // openAdapter has checked it
    const tensors = new Map(into.checkpoint.tensors);
    const at = resolveName(into.spec, into.checkpoint, name);
    tensors.set(at, { ...entry, name: at, file: base.files.length + entry.file });
    return { ...into, checkpoint: { ...into.checkpoint, tensors } };
  };
  let joined: Joined = { checkpoint: base, spec: own };
  for (const { weight, stored } of tables) joined = place(joined, weight, stored);
  joined = breakTies(joined.checkpoint, joined.spec, saved, apart);
  // With its tie broken each side has the table of its own that the file may hold.
  for (const { weight, stored } of tables) joined = place(joined, weight, stored);
  for (const weight of saved) joined = place(joined, weight, savedName(weight.name));
  if (saved.length + tables.length === 0) return joined;
  const files = [...base.files, ...adapter.checkpoint.files];
  return { ...joined, checkpoint: { ...joined.checkpoint, files } };
}

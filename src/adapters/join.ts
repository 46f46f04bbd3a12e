// A base checkpoint with the parameters an adapter keeps whole in place of its own: one checkpoint over the files of
// both, so that what loads, streams or converts weights need not know where they come from. No data is read.
import type { Checkpoint, TensorEntry } from "../checkpoint/types.ts";
import type { ModelSpec } from "../models/spec.ts";
import { resolveName } from "../plan/units.ts";
import { type Adapter, savedName } from "./files.ts";

/** A model whose tensors may lie in files of two folders. */
export interface Joined {
  readonly checkpoint: Checkpoint;
  /** Without the ties that the adapter breaks. */
  readonly spec: ModelSpec;
}

/**
 * Puts the saved parameters of `adapter` in the place of the base's. A tie is broken where one side of it is saved, as
 * PEFT does it: the other side keeps the base's values. `apart` names further aliases that must not be tied.
 */
export function joinSaved(
  base: Checkpoint,
  spec: ModelSpec,
  adapter: Adapter,
  apart: ReadonlySet<string> = new Set(),
): Joined {
  const saved = new Set(adapter.saved.map(({ name }) => name));
  const broken = Object.entries(spec.tied).filter(
    ([alias, name]) => saved.has(alias) || saved.has(name) || apart.has(alias),
  );
  if (saved.size === 0 && broken.length === 0) return { checkpoint: base, spec };

  const aliases = new Set(broken.map(([alias]) => alias));
  const tied = Object.fromEntries(Object.entries(spec.tied).filter(([alias]) => !aliases.has(alias)));
  const tensors = new Map(base.tensors);
  for (const [alias, name] of broken) {
    const shared = base.tensors.get(resolveName(spec, base, name));
    if (shared) tensors.set(alias, { ...shared, name: alias });
  }
  const untied = { ...spec, tied };
  for (const { name } of adapter.saved) {
    const entry = adapter.checkpoint.tensors.get(savedName(name)) as TensorEntry; // openAdapter has checked it
    const place = resolveName(untied, base, name);
    tensors.set(place, { ...entry, name: place, file: base.files.length + entry.file });
  }
  const files = saved.size === 0 ? base.files : [...base.files, ...adapter.checkpoint.files];
  return { checkpoint: { ...base, files, tensors }, spec: untied };
}

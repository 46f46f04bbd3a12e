// Tables of the vocabulary in an adapter's file (PEFT's save_embedding_layers): they take the base's place, and may have
// more rows where tokens were added before the adapter was trained. No data is read.
import type { Checkpoint } from "../formats/types.ts";
import type { ModelSpec, WeightSpec } from "../models/spec.ts";
import { copyNameOf, savedName } from "./names.ts";

/** The embedding and the head: what has a row for every token. */
export function vocabularyTables(spec: ModelSpec): WeightSpec[] {
  const tables = spec.stages.flatMap(({ kind, weights }) =>
    Object.values(weights).filter(
      ({ rows, shape }) => rows === "tokens" || (kind === "head" && shape.length === 2),
    ),
  );
  return [...new Map(tables.map((table) => [table.name, table])).values()];
}

/** Name of a table in the adapter's file: as it is, or under the update that was trained over it. */
export function tableIn(file: Checkpoint, { name }: WeightSpec): string | undefined {
  return [savedName(name), copyNameOf(name)].find((stored) => file.tensors.has(stored));
}

/** The model with as many rows as the tables in an adapter's file have. */
export function withVocabularyOf(file: Checkpoint, spec: ModelSpec): ModelSpec {
  const tables = vocabularyTables(spec);
  const stored = tables.flatMap((table) => tableIn(file, table) ?? []);
  const rows = stored.map((name) => file.tensors.get(name)?.shape[0]).find((n) => n !== spec.vocab_size);
  if (rows === undefined) return spec;
  const resized = new Set(tables.map(({ name }) => name));
  const stages = spec.stages.map((stage) => ({
    ...stage,
    weights: Object.fromEntries(
      Object.entries(stage.weights).map(([key, weight]) => [
        key,
        resized.has(weight.name) ? { ...weight, shape: [rows, ...weight.shape.slice(1)] } : weight,
      ]),
    ),
  }));
  return { ...spec, vocab_size: rows, stages };
}

// A micro-batch as the stages see it: flattened ids, positions, the target of every token, and the attention mask.

import { ConfigError } from "../../base/errors.ts";
import { refuseUnknown } from "../../base/options.ts";
import { shown } from "../../base/shown.ts";

/** Ignored by the loss, as in transformers. */
export const IGNORED = -100;

/** Sequences as transformers takes them: labels are shifted inside. Shorter ones are filled up, and nothing sees that. */
export interface TrainingBatch {
  /** [batch, tokens] */
  readonly input_ids: readonly (readonly number[])[];
  /** [batch, tokens]; -100 is ignored. */
  readonly labels: readonly (readonly number[])[];
  /** [batch, tokens]; default 0, 1, 2 ... */
  readonly positions?: readonly (readonly number[])[];
  /** [batch, tokens]; tokens attend within one document only. Default: one document per sequence. */
  readonly document_ids?: readonly (readonly number[])[];
  /**
   * [batch, tokens], 1 or 0; tokens of 0 are seen by none. Padding may be on either side: positions count it, unless
   * `positions` says otherwise, as in transformers' models of these families.
   */
  readonly attention_mask?: readonly (readonly number[])[];
}

/** {@link TrainingBatch}'s, and what data loaders of this library add for others. */
const KEYS = [
  "input_ids",
  "labels",
  "positions",
  "document_ids",
  "attention_mask",
  "lengths",
  "target_tokens",
];
const ELSEWHERE = {
  position_ids:
    "give positions, and document_ids where documents that are packed together must not see one another",
  token_type_ids: "these models have none: leave it out",
};

const TABLES = ["input_ids", "labels", "positions", "document_ids", "attention_mask"] as const;
const OPTIONAL: readonly string[] = TABLES.slice(2);

/** Typed arrays are taken for rows too. */
function isRow(value: unknown): boolean {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

export interface TensorBatch {
  readonly sequences: number;
  /** Tokens of a sequence. */
  readonly length: number;
  /** i32 [sequences * length], one sequence after another. */
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  /** Tokens that have a target, ascending, and those targets. */
  readonly predicting: Int32Array;
  readonly targets: Int32Array;
  /**
   * Writes rows of the attention mask, f16 bits [length, length, 1, masks]: 0 where a token may see, minus infinity
   * elsewhere. From row `first` on, as many as fit. It reads `document_ids` of the batch, which must stay as they were.
   */
  mask(into: Uint16Array, first: number): void;
  /** Sequences the mask has: 1 when all share one. */
  readonly masks: number;
}

const MINUS_INFINITY = 0xfc00;

/** Flattens and checks a batch. Throws ConfigError that names the row. */
export function microBatch(
  batch: TrainingBatch,
  model: { vocab_size: number; max_positions: number },
): TensorBatch {
  if (typeof batch !== "object" || batch === null || Array.isArray(batch))
    throw new ConfigError(`a batch must be { input_ids, labels }, got ${shown(batch)}`);
  refuseUnknown(batch, KEYS, "a batch", ELSEWHERE);
  for (const name of TABLES) {
    const table: unknown = batch[name];
    if (OPTIONAL.includes(name) && (table === undefined || table === null)) continue;
    if (!Array.isArray(table) || !Array.from(table).every(isRow))
      throw new ConfigError(`batch: ${name} must be rows of numbers, number[][], got ${shown(table)}`);
  }
  const { input_ids, labels, document_ids, attention_mask } = batch;
  const sequences = input_ids.length;
  const length = Math.max(0, ...input_ids.map((row) => row.length));
  if (sequences === 0 || input_ids.some((row) => row.length === 0))
    throw new ConfigError("input_ids: at least one sequence of at least one token is needed");
  if (length > model.max_positions) {
    throw new ConfigError(
      `input_ids: ${length} tokens are more than the model's ${model.max_positions} positions`,
    );
  }
  const rows = (name: string, table: readonly (readonly number[])[]) => {
    if (table.length !== sequences)
      throw new ConfigError(`${name}: ${table.length} rows for ${sequences} sequences`);
    const odd = table.findIndex((row, i) => row.length !== input_ids[i]?.length);
    if (odd >= 0)
      throw new ConfigError(
        `${name}: row ${odd} has ${table[odd]?.length} entries, that of input_ids has ${input_ids[odd]?.length}`,
      );
  };
  rows("labels", labels);
  if (batch.positions) rows("positions", batch.positions);
  if (document_ids) rows("document_ids", document_ids);
  if (attention_mask) rows("attention_mask", attention_mask);

  const ids = new Int32Array(sequences * length);
  const positions = new Int32Array(sequences * length);
  const predicting = new Int32Array(sequences * length);
  const targets = new Int32Array(sequences * length);
  let count = 0;
  if (attention_mask) checkMask(attention_mask);
  if (document_ids) checkDocuments(document_ids);
  for (let s = 0; s < sequences; s++) {
    const filled = input_ids[s]?.length ?? 0;
    const visible = new Set<number | undefined>(); // documents of which a token so far is shown
    for (let t = 0; t < filled; t++) {
      const at = s * length + t;
      if (attention_mask?.[s]?.[t] === 1) visible.add(document_ids?.[s]?.[t]);
      ids[at] = token(input_ids[s]?.[t], "input_ids", s, model.vocab_size);
      const position = batch.positions?.[s]?.[t] ?? t;
      if (!Number.isInteger(position) || position < 0 || position >= model.max_positions) {
        throw new ConfigError(
          `positions: row ${s} has ${shown(position)}, the model has ${model.max_positions} positions`,
        );
      }
      positions[at] = position;
      const target = t + 1 < filled ? labels[s]?.[t + 1] : IGNORED;
      const crosses = document_ids && t + 1 < filled && document_ids[s]?.[t + 1] !== document_ids[s]?.[t];
      if (target === IGNORED || crosses) continue;
      if (attention_mask && !visible.has(document_ids?.[s]?.[t])) {
        throw new ConfigError(
          `labels: row ${s} has a target at token ${t + 1}, which would be predicted from tokens that attention_mask ` +
            "hides all: give -100 there",
        );
      }
      predicting[count] = at;
      targets[count++] = token(target, "labels", s, model.vocab_size);
    }
  }
  const masks = document_ids || attention_mask ? sequences : 1;
  return {
    sequences,
    length,
    ids,
    positions,
    predicting: predicting.subarray(0, count),
    targets: targets.subarray(0, count),
    mask: (into, first) => attentionMask(into, first, length, document_ids, attention_mask),
    masks,
  };
}

function token(value: number | undefined, name: string, row: number, vocab: number): number {
  if (value === undefined || !Number.isInteger(value) || value < 0 || value >= vocab) {
    throw new ConfigError(`${name}: row ${row}: ${shown(value)} is not a token of a vocabulary of ${vocab}`);
  }
  return value;
}

type Rows = readonly (readonly number[])[];

function checkMask(mask: Rows): void {
  for (const [s, row] of mask.entries()) {
    const odd = Array.from(row).findIndex((value) => value !== 0 && value !== 1);
    if (odd >= 0) throw new ConfigError(`attention_mask: row ${s} has ${shown(row[odd])}, expected 0 or 1`);
  }
}

function checkDocuments(ids: Rows): void {
  for (const [s, row] of ids.entries()) {
    const odd = Array.from(row).findIndex((value) => !Number.isInteger(value));
    if (odd >= 0)
      throw new ConfigError(`document_ids: row ${s} has ${shown(row[odd])}, expected a whole number`);
  }
}

/** Whether a token sees any token of its document that the mask shows, itself included. */
function seesAny(
  mask: readonly number[] | undefined,
  ids: readonly number[] | undefined,
  query: number,
): boolean {
  for (let key = query; key >= 0; key--) if (mask?.[key] === 1 && ids?.[key] === ids?.[query]) return true;
  return false;
}

/** See {@link TensorBatch.mask}. Documents need not lie together. */
function attentionMask(
  into: Uint16Array,
  first: number,
  length: number,
  documents: Rows | undefined,
  shownTokens: Rows | undefined,
): void {
  for (let at = 0; at < into.length; at += length) {
    const row = first + at / length;
    const query = row % length;
    const sequence = (row - query) / length;
    const ids = documents?.[sequence];
    into.fill(MINUS_INFINITY, at, at + length);
    if (!ids) into.fill(0, at, at + query + 1);
    else {
      // Runs of one document, from the query's own back to the first.
      const own = ids[query];
      for (let end = query + 1; end > 0; ) {
        while (end > 0 && ids[end - 1] !== own) end--;
        let start = end;
        while (start > 0 && ids[start - 1] === own) start--;
        into.fill(0, at + start, at + end);
        end = start;
      }
    }
    const mask = shownTokens?.[sequence];
    if (!mask) continue;
    for (let key = 0; key <= query; key++) if (mask[key] !== 1) into[at + key] = MINUS_INFINITY;
    // Padding that sees nothing would make of nothing a mean: it sees itself, and is seen by none.
    if (!seesAny(mask, ids, query)) into[at + query] = 0;
  }
}

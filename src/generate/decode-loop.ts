// The loop over the model: prompts in, one new token per sequence and step out. Knows ids, not text.
import { BudgetError, ConfigError } from "../errors.ts";
import { inGroups } from "../groups.ts";
import type { Engine } from "../runtime/engine.ts";
import type { PartialSamplingOptions } from "./sampling.ts";
import { Sampler, SamplingScratch } from "./sampling.ts";

/** Why a sequence ended. */
export type FinishReason = "eos" | "length" | "stop" | "context";

export interface DecodeRequest {
  readonly prompts: readonly (readonly number[])[];
  readonly max_new_tokens: number;
  /** Ids that end a sequence; they are part of it. */
  readonly eos: readonly number[];
  readonly sampling: PartialSamplingOptions;
  readonly signal?: AbortSignal | undefined;
  /** Called with each new token; returns true to end that sequence. */
  readonly onToken: (sequence: number, id: number) => boolean | undefined;
  /** Called when prompts of so many tokens have been read: all of them, or those of one group. */
  readonly onPrefill?: (tokens: number) => void;
}

interface Row {
  readonly index: number;
  readonly ids: number[];
  /** Its first row of the cache. */
  base: number;
  readonly limit: number;
  readonly sampler: Sampler;
  past: number;
  finish: FinishReason | undefined;
}

/**
 * Runs all prompts to their ends: together, or in groups one after another where the budget has no room for the cache of all
 * of them at once. Must be called within {@link Engine.exclusive}. Returns whole sequences.
 */
export async function decode(
  engine: Engine,
  r: DecodeRequest,
): Promise<{ ids: number[][]; finish: FinishReason[] }> {
  if (!Number.isInteger(r.max_new_tokens) || r.max_new_tokens < 0) {
    throw new ConfigError(`max_new_tokens is ${r.max_new_tokens}, expected a whole number from 0`);
  }
  const limits = checkPrompts(engine, r);
  const scratch = new SamplingScratch();
  const ids: number[][] = [];
  const finish: FinishReason[] = [];
  const groups = inGroups([...limits.keys()], engine.largestCapacity, (i) => limits[i] as number);
  for (let group = groups.shift(); group; group = groups.shift()) {
    const rows = group.map((index) => makeRow(r, index, limits[index] as number, scratch));
    try {
      await decodeTogether(engine, r, rows);
    } catch (error) {
      // Graphs over many sequences may need more than those of one, which is what was planned for.
      const begun = rows.some(({ past }) => past > 0);
      if (!(error instanceof BudgetError) || begun || group.length === 1) throw error;
      const half = Math.ceil(group.length / 2);
      groups.unshift(group.slice(0, half), group.slice(half));
      continue;
    }
    ids.push(...rows.map((row) => row.ids));
    finish.push(...rows.map((row) => row.finish ?? ending(row, r)));
  }
  return { ids, finish };
}

async function decodeTogether(engine: Engine, r: DecodeRequest, rows: readonly Row[]): Promise<void> {
  let base = 0;
  for (const row of rows) {
    row.base = base;
    base += row.limit;
  }
  await engine.ensureCapacity(base);
  let live = rows.filter((row) => row.ids.length < row.limit);
  let first = true;
  while (live.length > 0) {
    const inputs = live.map((row) => ({ base: row.base, past: row.past, tokens: row.ids.slice(row.past) }));
    const chosen = await chooseTokens(engine, inputs, live, r.signal);
    if (first) r.onPrefill?.(inputs.reduce((sum, { tokens }) => sum + tokens.length, 0));
    first = false;
    for (const [i, row] of live.entries()) {
      row.past = row.ids.length;
      const id = chosen[i] as number;
      row.ids.push(id);
      const stop = r.onToken(row.index, id) === true;
      if (r.eos.includes(id)) row.finish = "eos";
      else if (stop) row.finish = "stop";
      else if (row.ids.length >= row.limit) row.finish = ending(row, r);
    }
    live = live.filter((row) => row.finish === undefined);
  }
}

function ending(row: Row, r: DecodeRequest): FinishReason {
  const asked = (r.prompts[row.index] as readonly number[]).length + r.max_new_tokens;
  return row.ids.length >= asked ? "length" : "context";
}

/** Tokens that each sequence may come to. Throws ConfigError for prompts that cannot be used. */
function checkPrompts(engine: Engine, r: DecodeRequest): number[] {
  if (r.prompts.length === 0) throw new ConfigError("input_ids: no sequence was given");
  const { max_positions } = engine.prepared.spec;
  return r.prompts.map((prompt, index) => {
    if (prompt.length === 0)
      throw new ConfigError(`input_ids: sequence ${index} is empty; it needs at least one token`);
    if (prompt.length > max_positions) {
      throw new ConfigError(
        `input_ids: sequence ${index} has ${prompt.length} tokens, the model has positions for ${max_positions}`,
      );
    }
    return Math.min(prompt.length + r.max_new_tokens, max_positions);
  });
}

function makeRow(r: DecodeRequest, index: number, limit: number, scratch: SamplingScratch): Row {
  // Sequences of one call draw independently, and the same way whatever their neighbours are.
  const sampling = r.sampling.seed == null ? r.sampling : { ...r.sampling, seed: r.sampling.seed + index };
  const ids = [...(r.prompts[index] as readonly number[])];
  const sampler = new Sampler(sampling, scratch);
  return { index, ids, base: 0, limit, sampler, past: 0, finish: undefined };
}

/** The next token of each row, chosen as its logits come: those of one sequence are there at a time. */
async function chooseTokens(
  engine: Engine,
  inputs: readonly { base: number; past: number; tokens: number[] }[],
  rows: readonly Row[],
  signal: AbortSignal | undefined,
): Promise<number[]> {
  const chosen: number[] = [];
  // Last tokens come in the order of the call, one for each sequence.
  const choose = (_token: number, logits: Float32Array) => {
    const { sampler, ids } = rows[chosen.length] as Row;
    chosen.push(sampler.sample(logits, ids));
  };
  await engine.step(inputs, "last", choose, signal);
  return chosen;
}

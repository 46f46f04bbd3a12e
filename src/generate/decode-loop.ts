// The loop over the model: prompts in, one new token per sequence and step out. Knows ids, not text.
import { ConfigError } from "../errors.ts";
import type { Engine } from "../runtime/engine.ts";
import type { PartialSamplingOptions } from "./sampling.ts";
import { Sampler } from "./sampling.ts";

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
  /** Called when the prompts have been read, before the first token is chosen. */
  readonly onPrefill?: () => void;
}

interface Row {
  readonly index: number;
  readonly ids: number[];
  readonly base: number;
  readonly limit: number;
  readonly sampler: Sampler;
  past: number;
  finish: FinishReason | undefined;
}

/** Runs all prompts to their ends, together. Must be called within {@link Engine.exclusive}. Returns whole sequences. */
export async function decode(
  engine: Engine,
  r: DecodeRequest,
): Promise<{ ids: number[][]; finish: FinishReason[] }> {
  if (!Number.isInteger(r.max_new_tokens) || r.max_new_tokens < 0) {
    throw new ConfigError(`max_new_tokens is ${r.max_new_tokens}, expected a whole number from 0`);
  }
  const rows = makeRows(engine, r);
  await engine.ensureCapacity(rows.reduce((sum, row) => sum + row.limit, 0));
  let live = rows.filter((row) => row.ids.length < row.limit);
  let first = true;
  while (live.length > 0) {
    const inputs = live.map((row) => ({ base: row.base, past: row.past, tokens: row.ids.slice(row.past) }));
    const logits = await lastLogits(engine, inputs, r.signal);
    if (first) r.onPrefill?.();
    first = false;
    for (const [i, row] of live.entries()) {
      row.past = row.ids.length;
      const id = row.sampler.sample(logits[i] as Float32Array, row.ids);
      row.ids.push(id);
      const stop = r.onToken(row.index, id) === true;
      if (r.eos.includes(id)) row.finish = "eos";
      else if (stop) row.finish = "stop";
      else if (row.ids.length >= row.limit) row.finish = ending(row, r);
    }
    live = live.filter((row) => row.finish === undefined);
  }
  return { ids: rows.map((row) => row.ids), finish: rows.map((row) => row.finish ?? ending(row, r)) };
}

function ending(row: Row, r: DecodeRequest): FinishReason {
  const asked = (r.prompts[row.index] as readonly number[]).length + r.max_new_tokens;
  return row.ids.length >= asked ? "length" : "context";
}

/** Each sequence gets the cache rows it may need, one after another. */
function makeRows(engine: Engine, r: DecodeRequest): Row[] {
  if (r.prompts.length === 0) throw new ConfigError("input_ids: no sequence was given");
  const { max_positions } = engine.prepared.spec;
  let base = 0;
  return r.prompts.map((prompt, index): Row => {
    if (prompt.length === 0)
      throw new ConfigError(`input_ids: sequence ${index} is empty; it needs at least one token`);
    if (prompt.length > max_positions) {
      throw new ConfigError(
        `input_ids: sequence ${index} has ${prompt.length} tokens, the model has positions for ${max_positions}`,
      );
    }
    const limit = Math.min(prompt.length + r.max_new_tokens, max_positions);
    // Sequences of one call draw independently, and the same way whatever their neighbours are.
    const sampling = r.sampling.seed == null ? r.sampling : { ...r.sampling, seed: r.sampling.seed + index };
    const row = {
      index,
      ids: [...prompt],
      base,
      limit,
      sampler: new Sampler(sampling),
      past: 0,
      finish: undefined,
    };
    base += limit;
    return row;
  });
}

/** Logits of the last token of each sequence, in their order. */
async function lastLogits(
  engine: Engine,
  inputs: readonly { base: number; past: number; tokens: number[] }[],
  signal: AbortSignal | undefined,
): Promise<Float32Array[]> {
  const found: { token: number; logits: Float32Array }[] = [];
  await engine.step(inputs, "last", (token, logits) => found.push({ token, logits }), signal);
  return found.sort((a, b) => a.token - b.token).map((f) => f.logits);
}

// The loop over the model: prompts in, one new token per sequence and step out. Knows ids, not text.
import { BudgetError, ConfigError } from "../base/errors.ts";
import { inGroups } from "../base/groups.ts";
import type { Engine } from "../runtime/engine.ts";
import type { PassProgress } from "../runtime/step/executor.ts";
import { type CachedSequence, openRows, provideRows, startingRows } from "./cache-rows.ts";
import type { LogitsProcessor } from "./processors/processor.ts";
import { Sampler, type SamplingOptions, SamplingScratch } from "./sampling/sampling.ts";

/**
 * Why a sequence ended: an end token, as many tokens as asked for, a stop string, no more positions or memory for its
 * context, or the time that was given.
 */
export type FinishReason = "eos" | "length" | "stop" | "context" | "time";

/** What a prompt and its options come to: see settings/settings.ts. */
export interface SequenceRequest {
  readonly prompt: readonly number[];
  /** Tokens of prompt and continuation together at most. */
  readonly max_length: number;
  readonly sampling: Readonly<SamplingOptions>;
  readonly processors: readonly LogitsProcessor[];
}

export interface DecodeRequest {
  readonly sequences: readonly SequenceRequest[];
  /** Ids that end a sequence; they are part of it. */
  readonly eos: readonly number[];
  /** Seconds after which no further token is made. */
  readonly max_time?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called with each new token; returns true to end that sequence. Awaited where it is a promise. */
  readonly onToken: (sequence: number, id: number) => boolean | undefined | Promise<boolean | undefined>;
  /** Called when so many tokens have been read at once: prompts, or a text so far that goes on alone. */
  readonly onPrefill?: (tokens: number, seconds: number) => void;
  /** Called after each later pass: the tokens it made, one for each sequence, and what it took without who is told of them. */
  readonly onDecode?: (tokens: number, seconds: number) => void;
  /** Called with the tokens of a prompt that need not be read: the sequence before begins with them too. */
  readonly onReuse?: (tokens: number) => void;
  /** Called while they are read: tokens so far, and all. */
  readonly onPrompt?: ((processed: number, total: number) => void) | undefined;
}

interface Row extends CachedSequence {
  readonly index: number;
  /** Tokens of its prompt, which `ids` begins with. */
  readonly prompt: number;
  readonly ids: number[];
  readonly asked: number;
  readonly limit: number;
  readonly sampler: Sampler;
  past: number;
  finish: FinishReason | undefined;
}

/**
 * Runs all prompts to their ends: together, or in groups one after another where the budget has no room for the cache of all
 * of them at once. Must be called within {@link Engine.exclusive}. Returns whole sequences.
 * Limits are upper bounds: a sequence whose context the model or, all by itself, the budget cannot hold ends there, with
 * "context". Throws ConfigError for prompts the model has no positions for, BudgetError for one the budget cannot hold.
 */
export async function decode(
  engine: Engine,
  r: DecodeRequest,
): Promise<{ ids: number[][]; finish: FinishReason[] }> {
  const started = performance.now();
  const late = () => r.max_time !== undefined && performance.now() - started > r.max_time * 1000;
  const rows = makeRows(engine, r);
  const open = rows.filter((row) => row.ids.length < row.limit);
  const groups = inGroups(open, engine.largestCapacity, (row) =>
    Math.min(row.most, startingRows(row.ids.length)),
  );
  for (let group = groups.shift(); group; group = groups.shift()) {
    try {
      // What finds no room beside the others goes on alone.
      for (const row of await decodeTogether(engine, r, group, late)) groups.push([row]);
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      groups.unshift(...afterRefusal(group, error));
    } finally {
      engine.releaseGrowth();
    }
  }
  return { ids: rows.map((row) => row.ids), finish: rows.map((row) => row.finish ?? ending(row)) };
}

/** How a group goes on whose pass the budget has refused: in halves, or alone, or, where a text has begun, not at all. */
function afterRefusal(group: readonly Row[], error: BudgetError): Row[][] {
  const open = group.filter((row) => row.finish === undefined);
  const [only] = open;
  if (open.length <= 1) {
    if (!only || only.ids.length === only.prompt) throw error;
    only.finish = "context";
    return [];
  }
  const begun = open.some((row) => row.past > 0);
  for (const row of open) row.past = 0;
  if (begun) return open.map((row) => [row]);
  // Graphs over many sequences may need more than those of one, which is what was planned for.
  const half = Math.ceil(open.length / 2);
  return [open.slice(0, half), open.slice(half)];
}

/** Returns sequences that are not at their end and have to go on alone. */
async function decodeTogether(
  engine: Engine,
  r: DecodeRequest,
  group: readonly Row[],
  late: () => boolean,
): Promise<Row[]> {
  const later: Row[] = [];
  const alone = r.sequences.length === 1 ? group[0] : undefined;
  if (alone) alone.past = engine.commonPrefix(alone.ids);
  await openRows(
    engine,
    group,
    group.map((row) => row.ids.length),
  );
  if (alone) {
    alone.past = engine.commonPrefix(alone.ids); // what was there is lost where the cache had to grow anew
    if (alone.past > 0) r.onReuse?.(alone.past);
  }
  try {
    return await decodeOpen(engine, r, group, late, later);
  } finally {
    if (alone) engine.remember(alone.ids.slice(0, alone.past));
  }
}

async function decodeOpen(
  engine: Engine,
  r: DecodeRequest,
  group: readonly Row[],
  late: () => boolean,
  later: Row[],
): Promise<Row[]> {
  let live = [...group];
  for (let first = true; live.length > 0; first = false) {
    const inputs = live.map((row) => ({ base: row.base, past: row.past, tokens: row.ids.slice(row.past) }));
    const total = inputs.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const { onPrompt } = r;
    const progress = first && onPrompt ? (tokens: number) => onPrompt(tokens, total) : undefined;
    const began = performance.now();
    const chosen = await chooseTokens(engine, inputs, live, r.signal, progress);
    const seconds = (performance.now() - began) / 1000;
    if (first) r.onPrefill?.(total, seconds);
    else r.onDecode?.(live.length, seconds);
    for (const [i, row] of live.entries()) {
      row.past = row.ids.length;
      const id = chosen[i] as number;
      row.ids.push(id);
      const told = r.onToken(row.index, id);
      const stop = (told instanceof Promise ? await told : told) === true;
      if (r.eos.includes(id)) row.finish = "eos";
      else if (stop) row.finish = "stop";
      else if (row.ids.length >= row.limit) row.finish = ending(row);
      else if (late()) row.finish = "time";
    }
    live = live.filter((row) => row.finish === undefined);
    const alone = live.length === 1;
    const without = provideRows(engine, live);
    for (const row of without) {
      if (alone) row.finish = "context";
      else later.push(row);
      row.past = 0;
    }
    live = live.filter((row) => !without.includes(row));
  }
  return later;
}

function ending(row: Row): FinishReason {
  return row.ids.length >= row.asked ? "length" : "context";
}

function makeRows(engine: Engine, r: DecodeRequest): Row[] {
  if (r.sequences.length === 0) throw new ConfigError("input_ids: no sequence was given");
  const { max_positions } = engine.prepared.spec;
  const scratch = new SamplingScratch();
  return r.sequences.map(({ prompt, max_length, sampling, processors }, index): Row => {
    if (prompt.length === 0)
      throw new ConfigError(`input_ids: sequence ${index} is empty; it needs at least one token`);
    if (prompt.length > max_positions) {
      throw new ConfigError(
        `input_ids: sequence ${index} has ${prompt.length} tokens, the model has positions for ${max_positions}; ` +
          "shorten the prompt",
      );
    }
    // The last token is only chosen: it takes no position and no row.
    const limit = Math.min(max_length, max_positions + 1);
    return {
      index,
      prompt: prompt.length,
      ids: [...prompt],
      base: 0,
      rows: 0,
      most: Math.max(prompt.length, limit - 1),
      asked: max_length,
      limit,
      sampler: new Sampler(sampling, processors, scratch),
      past: 0,
      finish: undefined,
    };
  });
}

/** The next token of each row, chosen as its logits come: those of one sequence are there at a time. */
async function chooseTokens(
  engine: Engine,
  inputs: readonly { base: number; past: number; tokens: number[] }[],
  rows: readonly Row[],
  signal: AbortSignal | undefined,
  progress: PassProgress | undefined,
): Promise<number[]> {
  const chosen: number[] = [];
  // Last tokens come in the order of the call, one for each sequence.
  const choose = (_token: number, logits: Float32Array) => {
    const { sampler, ids } = rows[chosen.length] as Row;
    chosen.push(sampler.sample(logits, ids));
  };
  await engine.step(inputs, "last", choose, signal, progress);
  return chosen;
}

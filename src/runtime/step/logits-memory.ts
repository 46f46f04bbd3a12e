// How much RAM logits take: what is planned for them, and what a call that wants those of every token enters in the ledger.
import { undoNowAfter } from "../../base/async/cleanup.ts";
import { BudgetError } from "../../base/errors.ts";
import type { Ledger, Reservation } from "../../memory/ledger.ts";
import { formatBudget, formatBytes } from "../../memory/sizes.ts";
import { LOGITS_BYTES } from "./stage-graph.ts";

const WHAT = "logits";
/** Rows of choosing a token: its logits, and what a sampler makes of them (SamplingScratch is 28 bytes a token). */
const SAMPLING_ROWS = 8;
/** Of so many tokens in any case: whoever looks at a model asks for those of a sentence. */
const LEAST_TOKENS = 24;

/** What choosing tokens takes, whatever the number of sequences. Bytes. */
export function samplingBytes(vocab: number): number {
  return SAMPLING_ROWS * vocab * 4;
}

/**
 * What a plan sets aside in RAM: for choosing tokens, and for the logits of a whole context, of which as much as is computed
 * at a time, or of a sentence. More has to be free. Bytes.
 */
export function logitsChoices(
  vocab: number,
  context: number,
  sequences = 1,
): { whole: number; sentence: number } {
  const row = vocab * 4;
  const most = Math.max(1, Math.floor(LOGITS_BYTES / row));
  const bytesOf = (tokens: number) =>
    samplingBytes(vocab) + Math.max(Math.min(context, most, tokens), sequences) * row;
  return { whole: bytesOf(context), sentence: bytesOf(LEAST_TOKENS) };
}

/** Enters the logits of `tokens` tokens. Throws BudgetError that says how many would fit. */
export function reserveLogits(
  ledger: Ledger,
  tokens: number,
  vocab: number,
  everythingResident: boolean,
): Reservation {
  const row = vocab * 4;
  const needed = tokens * row;
  const free = ledger.free("cpu");
  if (needed <= free) return ledger.reserve("cpu", needed, WHAT);
  const fit = Math.floor(free / row);
  const enough = ledger.used("cpu") + needed;
  const larger = everythingResident
    ? `set max_memory.cpu to ${formatBudget(enough)} or more`
    : "keep more of the model on disk with device_map";
  throw new BudgetError(
    `the logits of ${tokens} tokens, one of ${vocab} for each, take ${formatBytes(needed)} on cpu, of whose budget of ` +
      `${formatBytes(ledger.budget("cpu"))} ${formatBytes(free)} are left: ${fit} tokens would fit; ask for fewer at a ` +
      `time, ${larger}, or use generate or stream, which keep the logits of one token`,
    {
      tier: "cpu",
      needed,
      budget: ledger.budget("cpu"),
      ...(everythingResident && { smallest: enough }),
    },
  );
}

/** Throws BudgetError where the system has no memory, or the engine no array, of that size. */
export function makeLogits(elements: number): Float32Array {
  try {
    return new Float32Array(elements);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BudgetError(
      `${formatBytes(elements * 4)} of logits could not be allocated in one piece; ask for fewer tokens at a time`,
      { tier: "cpu", needed: elements * 4, budget: Number.POSITIVE_INFINITY },
    );
  }
}

/** Memory for some rows: f32 [count, vocab]. */
export interface LogitsRows {
  readonly rows: Float32Array;
  readonly count: number;
  /** Strikes it from the ledger, where it is entered for itself. Safe to call twice. */
  release(): void;
}

/** Rows that are entered in the ledger until they are released. Throws BudgetError: see {@link reserveLogits}. */
export function enterLogits(
  ledger: Ledger,
  tokens: number,
  vocab: number,
  everythingResident: boolean,
): LogitsRows {
  const entry = reserveLogits(ledger, tokens, vocab, everythingResident);
  try {
    return { rows: makeLogits(tokens * vocab), count: tokens, release: () => entry.release() };
  } catch (error) {
    undoNowAfter(error, [() => entry.release()]);
  }
}

/**
 * RAM for logits on their way to who chooses tokens. One token's are planned for ({@link samplingBytes}) and stay; those of
 * several come at once where there is room for them.
 */
export class LogitsMemory {
  readonly #ledger: Ledger;
  readonly #vocab: number;
  #one: Float32Array | undefined;

  constructor(ledger: Ledger, vocab: number) {
    this.#ledger = ledger;
    this.#vocab = vocab;
  }

  /** For up to `count` rows, at least one, until it is released. */
  take(count: number): LogitsRows {
    const fit = Math.min(count, Math.floor(this.#ledger.free("cpu") / (this.#vocab * 4)));
    if (fit > 1) return enterLogits(this.#ledger, fit, this.#vocab, false);
    this.#one ??= makeLogits(this.#vocab);
    return { rows: this.#one, count: 1, release: () => {} };
  }
}

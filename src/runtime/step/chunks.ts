// Splits the tokens of one pass into chunks that are computed together, and describes each chunk's share of each
// sequence. The sizes are constants, never functions of a budget: they decide which kernels round how.
import { ConfigError } from "../../base/errors.ts";

/** Tokens computed in one graph. */
export const CHUNK_TOKENS = 512;
/** Tokens that go through the stages together: weights are streamed once for all of them. */
export const PASS_TOKENS = 2048;

/** New tokens of one sequence. */
export interface SequenceInput {
  /** First row of the sequence's keys and values in the cache. */
  readonly base: number;
  /** Tokens it already has there. */
  readonly past: number;
  readonly tokens: readonly number[];
}

/** The tokens of one sequence within one chunk. */
export interface ChunkPart {
  /** Index into the pass's sequences. */
  readonly sequence: number;
  readonly base: number;
  /** Tokens before these, in the cache by the time the chunk is computed. */
  readonly past: number;
  readonly count: number;
  /** First token within the chunk. */
  readonly offset: number;
}

/** Rows of its sequence that some token of a part sees: all, or those within `window` tokens of the first one. */
export function visibleRows(
  { past, count }: ChunkPart,
  window = Number.POSITIVE_INFINITY,
): { first: number; count: number } {
  const first = Math.max(0, past + 1 - window);
  return { first, count: past + count - first };
}

export interface Chunk {
  /** First token within the pass. */
  readonly start: number;
  readonly tokens: number;
  readonly parts: readonly ChunkPart[];
}

/** What goes through the stages together. */
export interface Pass {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly chunks: readonly Chunk[];
  /** Index within the pass of each sequence's last token of the whole call, where it is in this pass. */
  readonly last: ReadonlyMap<number, number>;
  /** Index of the pass's first token in the call. */
  readonly start: number;
}

/**
 * Splits a call into passes and chunks. Sequences follow each other; a long one continues in the next pass. Passes are made
 * when they are asked for, of `most` tokens each: what is held is one of them. Throws ConfigError before the first one.
 */
export function splitPasses(
  sequences: readonly SequenceInput[],
  vocab: number,
  most = PASS_TOKENS,
): Iterable<Pass> {
  for (const { tokens } of sequences) {
    for (const id of tokens) {
      if (!Number.isInteger(id) || id < 0 || id >= vocab) {
        throw new ConfigError(`input_ids: ${id} is not a token of a vocabulary of ${vocab}`);
      }
    }
  }
  return passes(sequences, most);
}

function* passes(sequences: readonly SequenceInput[], most: number): Generator<Pass> {
  let left = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const at = { sequence: 0, index: 0 };
  for (let start = 0; left > 0; start += most) {
    const count = Math.min(most, left);
    yield makePass(sequences, at, count, start);
    left -= count;
  }
}

/** `at`: the next token; moved on by `count`. */
function makePass(
  sequences: readonly SequenceInput[],
  at: { sequence: number; index: number },
  count: number,
  start: number,
): Pass {
  const ids = new Int32Array(count);
  const positions = new Int32Array(count);
  const last = new Map<number, number>();
  const chunks: Chunk[] = [];
  for (let first = 0; first < count; first += CHUNK_TOKENS) {
    const tokens = Math.min(CHUNK_TOKENS, count - first);
    const parts: ChunkPart[] = [];
    for (let offset = 0; offset < tokens; ) {
      const { base, past, tokens: all } = sequences[at.sequence] as SequenceInput;
      const part = Math.min(all.length - at.index, tokens - offset);
      if (part > 0) parts.push({ sequence: at.sequence, base, past: past + at.index, count: part, offset });
      for (let i = 0; i < part; i++) {
        ids[first + offset + i] = all[at.index + i] as number;
        positions[first + offset + i] = past + at.index + i;
      }
      offset += part;
      at.index += part;
      if (at.index < all.length) continue;
      if (part > 0) last.set(at.sequence, first + offset - 1);
      at.sequence++;
      at.index = 0;
    }
    chunks.push({ start: first, tokens, parts });
  }
  return { ids, positions, chunks, last, start };
}

// Splits the tokens of one pass into chunks that are computed together, and describes each chunk's share of each
// sequence. The sizes are constants, never functions of a budget: they decide which kernels round how.
import { ConfigError } from "../errors.ts";

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

/** Splits a call into passes and chunks. Sequences follow each other; a long one continues in the next pass. */
export function splitPasses(sequences: readonly SequenceInput[], vocab: number): Pass[] {
  const flat: { sequence: number; index: number }[] = [];
  for (const [sequence, { tokens }] of sequences.entries()) {
    for (const [index, id] of tokens.entries()) {
      if (!Number.isInteger(id) || id < 0 || id >= vocab) {
        throw new ConfigError(`input_ids: ${id} is not a token of a vocabulary of ${vocab}`);
      }
      flat.push({ sequence, index });
    }
  }
  const passes: Pass[] = [];
  for (let start = 0; start < flat.length; start += PASS_TOKENS) {
    passes.push(makePass(sequences, flat.slice(start, start + PASS_TOKENS), start));
  }
  return passes;
}

function makePass(
  sequences: readonly SequenceInput[],
  tokens: readonly { sequence: number; index: number }[],
  start: number,
): Pass {
  const ids = new Int32Array(tokens.length);
  const positions = new Int32Array(tokens.length);
  const last = new Map<number, number>();
  for (const [i, { sequence, index }] of tokens.entries()) {
    const s = sequences[sequence] as SequenceInput;
    ids[i] = s.tokens[index] as number;
    positions[i] = s.past + index;
    if (index === s.tokens.length - 1) last.set(sequence, i);
  }
  const chunks: Chunk[] = [];
  for (let first = 0; first < tokens.length; first += CHUNK_TOKENS) {
    const members = tokens.slice(first, first + CHUNK_TOKENS);
    const parts: ChunkPart[] = [];
    for (let i = 0; i < members.length; ) {
      const { sequence, index } = members[i] as { sequence: number; index: number };
      let count = 1;
      while (members[i + count]?.sequence === sequence) count++;
      const s = sequences[sequence] as SequenceInput;
      parts.push({ sequence, base: s.base, past: s.past + index, count, offset: i });
      i += count;
    }
    chunks.push({ start: first, tokens: members.length, parts });
  }
  return { ids, positions, chunks, last, start };
}

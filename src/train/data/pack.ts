// Fits documents into sequences of a bounded length, so that little of a batch is wasted on short ones. Documents keep
// their boundaries: a model that is told them computes for each what it would compute for that document alone.
import { countTargets, type Example, IGNORE_INDEX } from "./example.ts";

/** One row of a batch. The four lists have one entry per token. */
export interface Sequence {
  readonly input_ids: number[];
  /** Not shifted; IGNORE_INDEX where no loss is computed, always so for the first token of a document. */
  readonly labels: number[];
  /** From 0 in each document. */
  readonly positions: number[];
  /** 0, 1, ... in order: tokens attend only to those of the same document. */
  readonly document_ids: number[];
  /** Tokens of each document. */
  readonly lengths: number[];
}

/** An example that waits for room, from one of its tokens on. */
export interface Waiting {
  /** Where it stands in the epoch's order. */
  readonly position: number;
  readonly example: Example;
  /** The first token that is still to be packed. */
  readonly start: number;
}

export interface PackOptions {
  /** Most tokens of a sequence, at least 2. */
  readonly max_length: number;
  /** Documents that may be passed over, in search of one that fits the room left. 0: documents stay in their order. */
  readonly look_ahead: number;
  /** Several documents to a sequence; otherwise each has its own. */
  readonly packing: boolean;
}

/** The next document in order; undefined at the end. */
export type NextDocument = () => Promise<{ position: number; example: Example } | undefined>;

/**
 * Packs greedily: a sequence begins with the document that has waited longest and takes, in order, every one that fits
 * the room left, until `look_ahead` of them have been passed over; those come first in later sequences. The last
 * sequences of an epoch are short, none is padded.
 *
 * Only a document longer than `max_length` is split. Its pieces are sequences of their own but for the last, and each
 * begins with the last token of the piece before: so every token but the document's first is predicted exactly once.
 * Each piece has positions from 0 and sees nothing of the others. Pieces without a label to learn are left out.
 */
export class SequencePacker {
  readonly #options: PackOptions;
  readonly #next: NextDocument;
  #waiting: Waiting[];

  constructor(options: PackOptions, next: NextDocument, waiting: readonly Waiting[] = []) {
    this.#options = options;
    this.#next = next;
    this.#waiting = [...waiting];
  }

  /** What has been taken from the order and not given out in full: with the order's position, all there is to resume from. */
  get waiting(): readonly Waiting[] {
    return this.#waiting;
  }

  /** The next sequence; undefined when all documents are packed. */
  async pack(): Promise<Sequence | undefined> {
    const first = this.#waiting.shift() ?? (await this.#take());
    if (first === undefined) return undefined;
    const { max_length, look_ahead, packing } = this.#options;
    const sequence: Sequence = { input_ids: [], labels: [], positions: [], document_ids: [], lengths: [] };
    const end = append(sequence, first, max_length);
    if (end < first.example.input_ids.length) {
      // The piece took all the room. The last token is given again, as what the next one is predicted from.
      const rest = this.#learnable({ ...first, start: end - 1 });
      if (rest !== undefined) this.#waiting.unshift(rest);
      return sequence;
    }
    let passed = 0;
    while (packing && passed <= look_ahead) {
      const room = max_length - sequence.input_ids.length;
      if (room < 2) break; // one token alone has nothing to learn
      const candidate = this.#waiting[passed] ?? (await this.#take());
      if (candidate === undefined) break;
      if (passed === this.#waiting.length) this.#waiting.push(candidate);
      if (candidate.example.input_ids.length - candidate.start > room) {
        passed++;
      } else {
        this.#waiting.splice(passed, 1);
        append(sequence, candidate, room);
      }
    }
    return sequence;
  }

  async #take(): Promise<Waiting | undefined> {
    for (;;) {
      const document = await this.#next();
      if (document === undefined) return undefined;
      const waiting = this.#learnable({ ...document, start: 0 });
      if (waiting !== undefined) return waiting;
    }
  }

  /** The document from its first piece on that has something to learn; undefined if none has. */
  #learnable(document: Waiting): Waiting | undefined {
    const { labels } = document.example;
    const { max_length } = this.#options;
    for (let start = document.start; start + 1 < labels.length; start += max_length - 1) {
      // The first label of a piece belongs to the piece before.
      if (countTargets(labels, start + 1, Math.min(labels.length, start + max_length)) > 0)
        return { ...document, start };
    }
    return undefined;
  }
}

/** Adds as much of a document as fits `room` tokens. Returns the document's token after the last one added. */
function append(sequence: Sequence, { example, start }: Waiting, room: number): number {
  const end = Math.min(example.input_ids.length, start + room);
  const id = sequence.lengths.length;
  for (let i = start; i < end; i++) {
    sequence.input_ids.push(example.input_ids[i]!);
    sequence.labels.push(i === start ? IGNORE_INDEX : example.labels[i]!);
    sequence.positions.push(i - start);
    sequence.document_ids.push(id);
  }
  sequence.lengths.push(end - start);
  return end;
}

// Turns a stream of token ids into text as it becomes certain. Knows nothing about any tokenizer: it calls decode, and asks
// which tokens are single bytes where that can be asked. Method: decode a short window that starts at a settled place and
// emit what the newest token added to its text.
import { ByteRun } from "./byte-run.ts";

/**
 * Token ids to text. What is asked of it: adding a token only appends to the text, except that a final U+FFFD (an
 * unfinished UTF-8 sequence) may turn into something else, and the first token may lose leading space. Tokens that are
 * single bytes (byte fallback) may be more: a run of them is U+FFFD for each as long as it is not UTF-8 as a whole.
 */
export type DecodeFn = (ids: number[]) => string;

/** The byte that a token stands for by byte fallback; undefined for every other token. */
export type ByteOf = (id: number) => number | undefined;

const REPLACEMENT = "\uFFFD";

/**
 * A UTF-8 sequence has at most four bytes, so of four neighbouring token boundaries one is between two characters.
 * With more tokens than this waiting, some of them can always be settled.
 */
const LONGEST_UTF8 = 4;

/** Tokens that wait at most. */
const MOST_PENDING = 16;

/** More leading spaces than any decoder strips (they strip one). */
const MORE_THAN_STRIPPED = 8;

/**
 * Decodes a stream of tokens piece by piece: the pieces joined are exactly `decode` of all tokens, but for one case. Bytes
 * that break a run of byte tokens make U+FFFD of all of the run in the whole text; characters of it that were complete
 * before are out by then, and stay.
 * An unfinished multi-byte character is held back until it is complete or known to be broken.
 * Each push decodes a bounded number of tokens, however long the text is.
 */
export class IncrementalDecoder {
  readonly #decode: DecodeFn;
  readonly #byteOf: ByteOf | undefined;
  /** How many U+FFFD at the end of a text may be of one unfinished character. */
  readonly #unsettled: number;
  /** Settled tokens whose text is out. They only give the following ones the neighbours they would have in the whole. */
  #context: number[] = [];
  #contextText = "";
  /** Tokens after the context whose text is not settled yet. */
  #pending: number[] = [];
  /** decode(context + pending) */
  #text = "";
  /** UTF-16 units of #text that are out. */
  #emitted = 0;
  readonly #run = new ByteRun();
  /** The run of bytes that is going on has characters whose text is out; they would be U+FFFD too, were it to break. */
  #runIsOut = false;
  /** The run of bytes that is going on is broken: the context is of it, and all that follows in it is U+FFFD. */
  #runIsBroken = false;

  /** @param byteOf undefined if it is not known whether the tokenizer has byte fallback */
  constructor(decode: DecodeFn, byteOf?: ByteOf) {
    this.#decode = decode;
    this.#byteOf = byteOf;
    this.#unsettled = byteOf === undefined ? LONGEST_UTF8 - 1 : 1;
  }

  /** Takes the next token and returns the text that is now certain, often "". */
  push(id: number): string {
    const byte = this.#byteOf?.(id);
    if (byte !== undefined) return this.#pushByte(id, byte);
    if (this.#run.waiting.length === 0) return this.#push([id]);
    if (this.#isInvisible(id)) return "";
    return this.#break(this.#run.take()) + this.#push([id]);
  }

  /** Returns what was held back, U+FFFD for a character that never completed, and is ready for another text. */
  flush(): string {
    const waiting = this.#run.take();
    if (this.#isDisturbed()) this.#forgetContext();
    const rest = (waiting.length > 0 ? this.#break(waiting) : "") + this.#text.slice(this.#emitted);
    this.#restart([]);
    this.#runIsBroken = false;
    this.#runIsOut = false;
    return rest;
  }

  /** A byte waits until its character is complete, and then comes as a whole. */
  #pushByte(id: number, byte: number): string {
    if (this.#runIsBroken) return this.#decode([...this.#context, id]).slice(this.#contextText.length);
    const { state, ids } = this.#run.push(id, byte);
    if (state === "open") return "";
    if (state === "complete") {
      const piece = this.#push(ids, true);
      this.#runIsOut = this.#pending.length === 0;
      return piece;
    }
    const piece = this.#break(ids);
    this.#runIsBroken = true;
    return piece;
  }

  /** Text of bytes that make no character, after what was held back. They become the context. */
  #break(ids: number[]): string {
    const piece = this.#runIsOut
      ? this.#decode(ids)
      : this.#decode([...this.#context, ...this.#pending, ...ids]).slice(this.#emitted);
    this.#runIsOut = false;
    this.#restart(ids);
    return piece;
  }

  /** @param isWhole the tokens are known to end between two characters */
  #push(ids: number[], isWhole = false): string {
    const text = this.#decode([...this.#context, ...this.#pending, ...ids]);
    if (text === this.#text && ids.length === 1 && this.#isInvisible(ids[0]!)) return "";
    this.#runIsBroken = false;
    this.#runIsOut = false;
    this.#pending.push(...ids);
    this.#text = text;
    const unfinished = isWhole ? 0 : trailing(text, this.#unsettled);
    if (this.#isDisturbed()) {
      if (unfinished > 0 && this.#pending.length < LONGEST_UTF8) return "";
      this.#forgetContext();
    }
    const certain = this.#text.length - unfinished;
    const piece = this.#text.slice(this.#emitted, certain);
    this.#emitted = Math.max(this.#emitted, certain);

    if (unfinished > 0 && this.#pending.length > LONGEST_UTF8) return piece + this.#cut();
    if (unfinished === 0 && this.#text.length > this.#contextText.length) this.#restart(this.#pending);
    return piece;
  }

  /** Whether the context's own text has become U+FFFD: it is of a run of bytes that is not UTF-8 as a whole, yet or for good. */
  #isDisturbed(): boolean {
    const [text, context] = [this.#text, this.#contextText];
    let same = 0;
    while (same < context.length && text[same] === context[same]) same++;
    return same < context.length && text[same] === REPLACEMENT;
  }

  #forgetContext(): void {
    this.#context = [];
    this.#contextText = "";
    this.#text = this.#decode(this.#pending);
    this.#emitted = 0;
  }

  /** Everything up to these tokens is text that is out: they become the context, and the old one is not needed any more. */
  #restart(context: number[]): void {
    this.#context = context;
    this.#contextText = context.length > 0 ? this.#decode(context) : "";
    this.#pending = [];
    this.#text = this.#contextText;
    this.#emitted = this.#text.length;
  }

  /**
   * Whether a token has no text wherever it stands, as skipped special tokens do. Such tokens are dropped, or a run of
   * them would widen the window without end. Asked between two copies of settled text, because at the end of a text
   * a continuation byte also changes nothing yet.
   */
  #isInvisible(id: number): boolean {
    const context = this.#context;
    if (context.length === 0) return this.#decode(new Array<number>(MORE_THAN_STRIPPED).fill(id)) === "";
    return this.#decode([...context, id, ...context]) === this.#decode([...context, ...context]);
  }

  /**
   * A run of broken bytes or of literal U+FFFD never ends in certain text. It is cut where the two sides decode
   * separately to the same text as together: a character that spans the cut would count once there and twice here.
   */
  #cut(): string {
    for (let at = this.#pending.length - 1; at > 0; at--) {
      const left = this.#decode([...this.#context, ...this.#pending.slice(0, at)]);
      const right = this.#decode([...this.#context, ...this.#pending.slice(at)]);
      const tail = right.slice(this.#contextText.length);
      if (tail === "" || left + tail !== this.#text || left.length > this.#emitted) continue;
      this.#pending.splice(0, at);
      this.#text = right;
      this.#emitted -= left.length - this.#contextText.length;
      return "";
    }
    if (this.#pending.length < MOST_PENDING) return "";
    // All of it is in one broken run of bytes, and stays U+FFFD as long as what broke it is in the window.
    const rest = this.#text.slice(this.#emitted);
    this.#restart(this.#contextText.endsWith(REPLACEMENT) ? this.#context : this.#pending);
    return rest;
  }
}

/** How many of the last characters of a text are U+FFFD, up to `most`. */
function trailing(text: string, most: number): number {
  let count = 0;
  while (count < most && text[text.length - 1 - count] === REPLACEMENT) count++;
  return count;
}

// Turns a stream of token ids into text as it becomes certain. Knows nothing about any tokenizer: it only calls decode.
// Method: decode a short window that starts at a settled place and emit what the newest token added to its text.

/**
 * Token ids to text. What is asked of it: adding a token only appends to the text, except that a final U+FFFD (an
 * unfinished UTF-8 sequence) may turn into something else, and the first token may lose leading space.
 */
export type DecodeFn = (ids: number[]) => string;

const REPLACEMENT = "\uFFFD";

/**
 * A UTF-8 sequence has at most four bytes, so of four neighbouring token boundaries one is between two characters.
 * With more tokens than this waiting, some of them can always be settled.
 */
const LONGEST_UTF8 = 4;

/** More leading spaces than any decoder strips (they strip one). */
const MORE_THAN_STRIPPED = 8;

/**
 * Decodes a stream of tokens piece by piece: the pieces joined are exactly `decode` of all tokens.
 * An unfinished multi-byte character is held back until it is complete or known to be broken.
 * Each push decodes a bounded number of tokens, however long the text is.
 */
export class IncrementalDecoder {
  readonly #decode: DecodeFn;
  /** Settled tokens whose text is out. They only give the following ones the neighbours they would have in the whole. */
  #context: number[] = [];
  #contextText = "";
  /** Tokens after the context whose text is not settled yet. */
  #pending: number[] = [];
  /** decode(context + pending) */
  #text = "";
  /** UTF-16 units of #text that are out. */
  #emitted = 0;

  constructor(decode: DecodeFn) {
    this.#decode = decode;
  }

  /** Takes the next token and returns the text that is now certain, often "". */
  push(id: number): string {
    const text = this.#decode([...this.#context, ...this.#pending, id]);
    if (text === this.#text && this.#isInvisible(id)) return "";
    this.#pending.push(id);
    this.#text = text;

    // Unfinished input decodes to one U+FFFD per sequence, so only the last one can still change.
    const unfinished = text.endsWith(REPLACEMENT);
    const certain = unfinished ? text.length - 1 : text.length;
    const piece = text.slice(this.#emitted, certain);
    this.#emitted = Math.max(this.#emitted, certain);

    if (!unfinished && text.length > this.#contextText.length) this.#settle();
    else if (unfinished && this.#pending.length > LONGEST_UTF8) this.#cut();
    return piece;
  }

  /** Returns what was held back, U+FFFD for a character that never completed, and is ready for another text. */
  flush(): string {
    const rest = this.#text.slice(this.#emitted);
    this.#context = [];
    this.#contextText = "";
    this.#pending = [];
    this.#text = "";
    this.#emitted = 0;
    return rest;
  }

  /** Everything pending is text now: it becomes the context, and the old context is not needed any more. */
  #settle(): void {
    this.#context = this.#pending;
    this.#contextText = this.#decode(this.#context);
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
  #cut(): void {
    for (let at = this.#pending.length - 1; at > 0; at--) {
      const left = this.#decode([...this.#context, ...this.#pending.slice(0, at)]);
      const right = this.#decode([...this.#context, ...this.#pending.slice(at)]);
      const tail = right.slice(this.#contextText.length);
      if (tail === "" || left + tail !== this.#text) continue;
      this.#pending.splice(0, at);
      this.#text = right;
      this.#emitted -= left.length - this.#contextText.length;
      return;
    }
  }
}

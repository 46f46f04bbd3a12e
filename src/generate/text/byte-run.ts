// A run of tokens that stand for one byte each, as byte fallback has them: which of them make a character, which never
// will. Bytes only; what text they have is asked of the tokenizer.

/** What the bytes since the last whole character are. */
export type RunState = "complete" | "open" | "broken";

export class ByteRun {
  /** The tokens of the character that is not complete, and their bytes. */
  #ids: number[] = [];
  #bytes: number[] = [];

  /** Tokens that wait for the rest of their character. */
  get waiting(): readonly number[] {
    return this.#ids;
  }

  /** Takes a token. "complete" and "broken" hand out all that wait, this one with them. */
  push(id: number, byte: number): { state: RunState; ids: number[] } {
    this.#ids.push(id);
    this.#bytes.push(byte);
    const state = stateOf(this.#bytes);
    return { state, ids: state === "open" ? [] : this.take() };
  }

  /** Hands out what waits: the run is over. */
  take(): number[] {
    const ids = this.#ids;
    this.#ids = [];
    this.#bytes = [];
    return ids;
  }
}

/** Whether bytes are one character in UTF-8, may become one, or cannot. https://www.unicode.org/versions/latest/ch03, table 3-7 */
function stateOf(bytes: readonly number[]): RunState {
  const [first = 0, second] = bytes;
  if (first < 0x80) return "complete";
  if (first < 0xc2 || first > 0xf4) return "broken";
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (second !== undefined && (second < low || second > high)) return "broken";
  if (bytes.slice(2).some((byte) => byte < 0x80 || byte > 0xbf)) return "broken";
  return bytes.length < length ? "open" : "complete";
}

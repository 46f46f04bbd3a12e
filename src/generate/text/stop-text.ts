// Text of tokens as they come, up to a stop string. Stop strings see special tokens, the text that is shown does not have
// them: both are decoded side by side, and what is shown is held back as long as what is matched is.
import { type ByteOf, IncrementalDecoder } from "./incremental-decoder.ts";
import { StopStrings } from "./stopping.ts";

/** Token ids to text, with special tokens or without. */
export type DecodeTokens = (ids: number[], options: { skip_special_tokens: boolean }) => string;

/** One token's part of both texts. */
interface Segment {
  /** As stop strings see it. */
  readonly seen: string;
  /** As it is shown. */
  readonly text: string;
}

export class StoppingDecoder {
  readonly #stops: StopStrings | undefined;
  readonly #seen: IncrementalDecoder;
  readonly #text: IncrementalDecoder;
  readonly #held: Segment[] = [];
  /** Characters of the first held segment that are released. */
  #released = 0;

  /** @throws ConfigError if a stop string is empty */
  constructor(decode: DecodeTokens, stops: readonly string[], byteOf?: ByteOf) {
    this.#stops = stops.length > 0 ? new StopStrings(stops) : undefined;
    this.#seen = new IncrementalDecoder((ids) => decode(ids, { skip_special_tokens: false }), byteOf);
    this.#text = new IncrementalDecoder((ids) => decode(ids, { skip_special_tokens: true }), byteOf);
  }

  /** Takes the next token: the text that is certain now, and whether it ends at a stop string. */
  push(id: number): { text: string; stopped: boolean } {
    if (!this.#stops) return { text: this.#text.push(id), stopped: false };
    return this.#take({ seen: this.#seen.push(id), text: this.#text.push(id) });
  }

  /** The tokens have ended: what was held back. */
  flush(): string {
    if (!this.#stops) return this.#text.flush();
    if (this.#stops.stopped !== undefined) return "";
    const { text, stopped } = this.#take({ seen: this.#seen.flush(), text: this.#text.flush() });
    if (stopped) return text;
    return text + this.#release(this.#stops.flush().length) + this.#rest();
  }

  #take(segment: Segment): { text: string; stopped: boolean } {
    const stops = this.#stops as StopStrings;
    this.#held.push(segment);
    const { text, stop } = stops.push(segment.seen);
    const shown = this.#release(text.length);
    return { text: shown, stopped: stop !== undefined };
  }

  /** What is shown of the next `count` characters that were seen. */
  #release(count: number): string {
    let left = count;
    let shown = "";
    for (let segment = this.#held[0]; segment; segment = this.#held[0]) {
      const open = segment.seen.length - this.#released;
      if (left < open) {
        shown += part(segment, this.#released, this.#released + left);
        this.#released += left;
        return shown;
      }
      shown += part(segment, this.#released, segment.seen.length);
      left -= open;
      this.#held.shift();
      this.#released = 0;
      // A segment that is not seen at all goes with what comes before it, but not past the last one that was released.
      if (left === 0 && this.#held[0]?.seen !== "") return shown;
    }
    return shown;
  }

  /** Segments that are shown and not seen, at the end. */
  #rest(): string {
    return this.#held
      .splice(0)
      .map((s) => s.text)
      .join("");
  }
}

/**
 * What is shown of characters `from` to `to` that are seen. The two differ in special tokens, and in space at their edges
 * that decoders put or drop beside one: the shown text is then the end of the seen one, or comes when all of it is released.
 */
function part({ seen, text }: Segment, from: number, to: number): string {
  const ahead = seen.length - text.length;
  if (ahead >= 0 && seen.endsWith(text))
    return text.slice(Math.max(0, from - ahead), Math.max(0, to - ahead));
  return to === seen.length ? text : "";
}

// Finds stop strings in text that arrives in pieces and says what may be shown. Knows nothing about tokens or models.
import { ConfigError } from "../../base/errors.ts";

/** What one piece of text came to. */
export interface StopResult {
  /** Text that may be emitted now: certainly not part of a stop string. */
  text: string;
  /** The stop string that was hit, or undefined. After a hit no more text comes. */
  stop: string | undefined;
}

interface Pattern {
  readonly text: string;
  /** borders[i]: length of the longest proper prefix of text that is also a suffix of text[0..i]. */
  readonly borders: Uint32Array;
  /** How many leading units of text the input so far ends in. */
  matched: number;
}

/**
 * Watches for stop strings. The first one to be complete wins, the longest if several end together, and the text is
 * cut before it, so the outcome does not depend on how the text was divided into pieces.
 * What is held back is the longest end of the text that could still become a stop string.
 * Knuth-Morris-Pratt, one automaton per stop string: cost is pieces' length times the number of stop strings.
 */
export class StopStrings {
  readonly #patterns: Pattern[];
  /** Text that is held back. */
  #held = "";
  #stop: string | undefined;

  /** @throws ConfigError if a stop string is empty or not a string */
  constructor(stops: readonly string[]) {
    this.#patterns = stops.map((text, index) => {
      if (typeof text !== "string" || text === "") {
        const given = text === "" ? "empty" : `a ${typeof text}`;
        throw new ConfigError(
          `stop string ${index} is ${given}; leave it out or give at least one character`,
        );
      }
      return { text, borders: bordersOf(text), matched: 0 };
    });
  }

  /** The stop string that was hit, or undefined. */
  get stopped(): string | undefined {
    return this.#stop;
  }

  /** Takes the next piece of text. */
  push(piece: string): StopResult {
    if (this.#stop !== undefined) return { text: "", stop: this.#stop };
    const text = this.#held + piece;
    let longest = 0;
    for (let i = this.#held.length; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let hit = "";
      longest = 0;
      for (const pattern of this.#patterns) {
        advance(pattern, unit);
        if (pattern.matched === pattern.text.length && pattern.matched > hit.length) hit = pattern.text;
        longest = Math.max(longest, pattern.matched);
      }
      if (hit !== "") {
        this.#stop = hit;
        this.#held = "";
        return { text: text.slice(0, i + 1 - hit.length), stop: hit };
      }
    }
    if (piece === "") return { text: "", stop: undefined };
    this.#held = text.slice(text.length - longest);
    return { text: text.slice(0, text.length - longest), stop: undefined };
  }

  /** The text has ended: what was held back is not a stop string after all. Ready for another text. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    this.#stop = undefined;
    for (const pattern of this.#patterns) pattern.matched = 0;
    return rest;
  }
}

function advance(pattern: Pattern, unit: number): void {
  const { text, borders } = pattern;
  let matched = pattern.matched;
  while (matched > 0 && text.charCodeAt(matched) !== unit) matched = borders[matched - 1]!;
  if (text.charCodeAt(matched) === unit) matched++;
  pattern.matched = matched;
}

function bordersOf(text: string): Uint32Array {
  const borders = new Uint32Array(text.length);
  let length = 0;
  for (let i = 1; i < text.length; i++) {
    while (length > 0 && text.charCodeAt(length) !== text.charCodeAt(i)) length = borders[length - 1]!;
    if (text.charCodeAt(length) === text.charCodeAt(i)) length++;
    borders[i] = length;
  }
  return borders;
}

// How much a tokenizer may make of a text. What is beyond is refused before it is made: memory that runs out inside one large
// allocation would end the process, not only the thread that asked for it.
import { TokenizingError } from "./fields.ts";

/** Texts of more UTF-16 units are refused. */
export const LONGEST_INPUT = 2 ** 24;
/** Words and other parts that one text may be cut into. */
export const MOST_WORDS = 2 ** 21;

/** Normalizers may make a text this many times as long: no table of Unicode makes more than 18 of one. */
const GROWTH = 32;
/** And this much longer, for what is put in front of it. */
const ADDED = 2 ** 16;
/** UTF-16 units of any text that is made: chained replacements can grow them without bound. */
export const LONGEST_TEXT = 2 ** 26;

/** How long a text of so many units may become. */
export function longestResult(length: number): number {
  return Math.min(LONGEST_TEXT, ADDED + GROWTH * length);
}

/** Throws TokenizingError if a text that came of `from` units has become too long. */
export function checkGrowth(length: number, from: number): void {
  if (length > longestResult(from))
    throw new TokenizingError(
      `it makes a text of ${length} or more characters of one of ${from}, at most ${longestResult(from)} are allowed`,
    );
}

/** Throws TokenizingError for too many parts of one text. */
export function checkWords(count: number): void {
  if (count > MOST_WORDS)
    throw new TokenizingError(
      `it cuts one text into more than ${MOST_WORDS} words; tokenize the text in parts`,
    );
}

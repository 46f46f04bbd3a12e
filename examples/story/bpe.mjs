// @ts-check
// Trains byte-level BPE (Sennrich et al. 2016, with GPT-2's bytes and word pattern). Only training: encoding is the work
// of whatever reads tokenizer.json. Recounts pairs of changed words only, so it is quick on a corpus of few words.

/** GPT-2's pattern: contractions, letters, digits, other signs, each with the space before it; other white space. */
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * The printable stand-ins of the 256 bytes, by byte. From GPT-2's bytes_to_unicode: bytes that print stand for
 * themselves, the others are shifted past U+0100.
 * @returns {string[]}
 */
export function byteCharacters() {
  let shifted = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(prints ? byte : shifted++);
  });
}

/**
 * The pairs to merge, the most frequent first; of equally frequent ones, the first in the order of their characters.
 * @param {Iterable<string>} texts
 * @param {number} most merges to learn; fewer are found where no pair occurs twice
 * @returns {[string, string][]}
 */
export function learnMerges(texts, most) {
  const words = countWords(texts);
  /** @type {Map<string, number>} frequency of a pair, which is written with a space between */
  const pairs = new Map();
  /** @type {Map<string, Set<Word>>} words a pair has been seen in */
  const places = new Map();
  for (const word of words) countPairs(word, 1, pairs, places);
  /** @type {[string, string][]} */
  const merges = [];
  while (merges.length < most) {
    const best = mostFrequent(pairs);
    if (best === undefined) break;
    const [left = "", right = ""] = best.split(" ");
    merges.push([left, right]);
    for (const word of places.get(best) ?? []) {
      countPairs(word, -1, pairs, places);
      word.parts = merged(word.parts, left, right);
      countPairs(word, 1, pairs, places);
    }
    places.delete(best);
  }
  return merges;
}

/** @typedef {{ parts: string[], count: number }} Word */

/** @param {Iterable<string>} texts @returns {Word[]} */
function countWords(texts) {
  const stand = byteCharacters();
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const text of texts) {
    for (const word of text.match(WORD) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, count]) => ({
    parts: Array.from(Buffer.from(word), (byte) => stand[byte] ?? ""),
    count,
  }));
}

/**
 * Adds the pairs of a word to the frequencies, or with `sign` -1 takes them away.
 * @param {Word} word
 * @param {1 | -1} sign
 * @param {Map<string, number>} pairs
 * @param {Map<string, Set<Word>>} places
 */
function countPairs(word, sign, pairs, places) {
  for (let i = 1; i < word.parts.length; i++) {
    const pair = `${word.parts[i - 1]} ${word.parts[i]}`;
    const count = (pairs.get(pair) ?? 0) + sign * word.count;
    if (count > 0) pairs.set(pair, count);
    else pairs.delete(pair);
    if (sign < 0) continue;
    const seen = places.get(pair);
    if (seen) seen.add(word);
    else places.set(pair, new Set([word]));
  }
}

/** @param {ReadonlyMap<string, number>} pairs */
function mostFrequent(pairs) {
  let best;
  let most = 1;
  for (const [pair, count] of pairs) {
    if (count > most || (count === most && best !== undefined && pair < best)) {
      best = pair;
      most = count;
    }
  }
  return best;
}

/** @param {readonly string[]} parts @param {string} left @param {string} right */
function merged(parts, left, right) {
  /** @type {string[]} */
  const result = [];
  for (let i = 0; i < parts.length; i++) {
    if (parts[i] === left && parts[i + 1] === right) {
      result.push(left + right);
      i++;
    } else {
      result.push(parts[i] ?? "");
    }
  }
  return result;
}

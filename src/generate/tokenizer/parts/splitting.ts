// Finds the matches of a pattern in a text and splits the text by them, as the Rust library does. Reads no files.
import { checkGrowth, checkWords } from "../limits.ts";

/** Spans of a text in order, without gaps: start, end and whether it is a match (1 or 0), three numbers each. */
export type Spans = number[];

export interface Pattern {
  spans(text: string): Spans;
}

export const BEHAVIORS = [
  "Removed",
  "Isolated",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
] as const;
export type Behavior = (typeof BEHAVIORS)[number];

/** @param regex with the flags g and u or v */
export function regexPattern(regex: RegExp): Pattern {
  return {
    spans(text) {
      if (text === "") return [0, 0, 0];
      const spans: Spans = [];
      let previous = 0;
      let lastMatchEnd = -1;
      regex.lastIndex = 0;
      for (let match = regex.exec(text); match !== null; match = regex.exec(text)) {
        const start = match.index;
        const end = start + match[0].length;
        if (start === end && end === lastMatchEnd) {
          // An empty match right after a match does not count; the search goes on one character later.
          if (end >= text.length) break;
          regex.lastIndex = end + ((text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1);
          continue;
        }
        if (previous !== start) spans.push(previous, start, 0);
        spans.push(start, end, 1);
        checkWords(spans.length / 3);
        previous = end;
        lastMatchEnd = end;
        regex.lastIndex = end;
      }
      if (previous !== text.length) spans.push(previous, text.length, 0);
      return spans;
    },
  };
}

export function literal(needle: string): Pattern {
  // The empty regex matches before every character.
  if (needle === "") return regexPattern(/(?:)/gu);
  return {
    spans(text) {
      const spans: Spans = [];
      let previous = 0;
      for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, previous)) {
        if (previous !== at) spans.push(previous, at, 0);
        previous = at + needle.length;
        spans.push(at, previous, 1);
        checkWords(spans.length / 3);
      }
      if (previous !== text.length) spans.push(previous, text.length, 0);
      return spans;
    },
  };
}

/** The text with every match replaced. */
export function replaced(text: string, pattern: Pattern, content: string): string {
  const spans = pattern.spans(text);
  if (spans.length <= 3 && spans[2] !== 1) return text;
  let result = "";
  for (let i = 0; i < spans.length; i += 3) {
    result += spans[i + 2] === 1 ? content : text.slice(spans[i], spans[i + 1]);
    checkGrowth(result.length, text.length);
  }
  return result;
}

/**
 * Adds the pieces of a text to `pieces`, none empty. Returns whether the first of them begins where the text begins.
 */
export function splitText(
  text: string,
  pattern: Pattern,
  behavior: Behavior,
  invert: boolean,
  pieces: string[],
): boolean {
  const spans = pattern.spans(text);
  const before = pieces.length;
  const match = invert ? 0 : 1;
  let firstStart = -1;
  const emit = (start: number, end: number) => {
    if (start === end) return;
    if (firstStart < 0) firstStart = start;
    pieces.push(text.slice(start, end));
  };
  if (behavior === "Isolated" || behavior === "Removed") {
    const removes = behavior === "Removed";
    for (let i = 0; i < spans.length; i += 3) {
      if (removes && spans[i + 2] === match) continue;
      emit(spans[i]!, spans[i + 1]!);
    }
    return pieces.length > before && firstStart === 0;
  }
  for (const [start, end] of merged(spans, match, behavior)) emit(start, end);
  return pieces.length > before && firstStart === 0;
}

/** Spans joined as the behaviour says: with equal neighbours, or matches with what is before or after them. */
function merged(spans: Spans, match: number, behavior: Behavior): [number, number][] {
  const list: [start: number, end: number, isMatch: boolean][] = [];
  for (let i = 0; i < spans.length; i += 3) list.push([spans[i]!, spans[i + 1]!, spans[i + 2] === match]);
  const backwards = behavior === "MergedWithNext";
  if (backwards) list.reverse();
  const result: [number, number][] = [];
  let previousMatch = false;
  for (const [start, end, isMatch] of list) {
    const joins = behavior === "Contiguous" ? isMatch === previousMatch : isMatch && !previousMatch;
    const last = result.at(-1);
    if (joins && last !== undefined) last[backwards ? 0 : 1] = backwards ? start : end;
    else result.push([start, end]);
    previousMatch = isMatch;
  }
  return backwards ? result.reverse() : result;
}

// Notes: what was found and is not used, or is used otherwise than one might think. Files and options are read in many
// places; each gives its notes as plain lines, they are joined here, and whoever opened the model says them once.

import { printable } from "./shown.ts";

/** Names given in a note before the rest is only counted. */
const LISTED = 3;

/** A note is a line: longer ones are cut. Characters. */
const LONGEST = 1000;

/**
 * Several lists of notes as one, each note once, in the order they came; as text that a terminal does not obey, because
 * notes name what files hold.
 */
export function joinNotes(...lists: readonly (readonly string[] | undefined)[]): readonly string[] {
  const lines = lists.flatMap((list) => list ?? []);
  return [...new Set(lines.map((line) => printable(line.replaceAll("\n", " "), LONGEST)))];
}

/** "a", "a and b", "a, b, c and 9 more": names for a note or an error. */
export function listed(names: Iterable<string>, limit: number = LISTED): string {
  const all = [...names];
  const shown = all.length > limit + 1 ? all.slice(0, limit) : all;
  const rest = all.length - shown.length;
  if (rest > 0) return `${shown.join(", ")} and ${rest} more`;
  const last = shown.at(-1) ?? "";
  return shown.length > 1 ? `${shown.slice(0, -1).join(", ")} and ${last}` : last;
}

/** `count("tensor", 2)`: "2 tensors". */
export function counted(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

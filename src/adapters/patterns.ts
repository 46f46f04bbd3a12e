// Python's regular expressions for module paths, as adapter files hold them, run by JavaScript's. Covers what the two
// share; what they do not is an error rather than another meaning.
import { runInNewContext } from "node:vm";
import { ConfigError } from "../base/errors.ts";

/** Letters that mean the same behind a backslash in both. */
const SAME_ESCAPES = "dDwWsSbBnrtfvx0123456789";
/** What Python has under another name. */
const RENAMED: Readonly<Record<string, string>> = { "\\A": "^", "\\Z": "$" };
/** Patterns come with files from anywhere, and some take longer than the universe has been there. */
const MATCHING_MS = 2000;

/** The keys that a pattern matches from beginning to end (re.fullmatch). Throws as {@link matchGroups}. */
export function fullMatches(pattern: string, keys: readonly string[], where: string): Set<string> {
  return new Set(matchGroups(pattern, keys, where).keys());
}

/**
 * The named groups of those keys that a pattern matches from beginning to end.
 * Throws ConfigError that begins with `where` if the pattern cannot be used, or does not come to an end in 2 s.
 */
export function matchGroups(
  pattern: string,
  keys: readonly string[],
  where: string,
): Map<string, Readonly<Record<string, string>>> {
  const found = new Map<string, Readonly<Record<string, string>>>();
  const match = (key: string, groups: Readonly<Record<string, string>> = {}) => found.set(key, groups);
  const context = { regexp: translate(pattern, where), keys, match };
  const code = "for (const key of keys) { const m = regexp.exec(key); if (m) match(key, m.groups); }";
  try {
    runInNewContext(code, context, { timeout: MATCHING_MS });
    return found;
  } catch (error) {
    const problem = `the pattern ${JSON.stringify(pattern)} takes too long to match: simplify it`;
    throw new ConfigError(`${where}: ${problem}`, { cause: error });
  }
}

function translate(pattern: string, where: string): RegExp {
  const fail = (what: string, cause?: unknown): never => {
    throw new ConfigError(`${where}: the pattern ${JSON.stringify(pattern)} ${what}`, { cause });
  };
  const [, letters = "", body = ""] = /^(?:\(\?([a-zA-Z]+)\))?(.*)$/s.exec(pattern)!;
  const odd = [...letters].find((letter) => !"imsu".includes(letter));
  if (odd !== undefined) fail(`has the flag "${odd}", which is not supported`);
  // One piece at a time: an escape, a class, the opening of a group, a repetition, any character.
  const source = body.replace(
    /\\(.?)|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P<(\w+)>|P=(\w+)\)|#[^)]*\)|(.))|\{,(\d+)\}|./gs,
    (piece, escaped?: string, name?: string, reference?: string, group?: string, most?: string) => {
      if (escaped !== undefined) {
        if (RENAMED[piece] !== undefined) return RENAMED[piece];
        if (escaped === "" || (/[a-zA-Z0-9]/.test(escaped) && !SAME_ESCAPES.includes(escaped)))
          fail(`has ${JSON.stringify(piece)}, which is not supported`);
        return piece;
      }
      if (piece.startsWith("[")) return piece.replace(/^\[(\^?)\]/, "[$1\\]"); // a first ] is a character in Python
      if (name !== undefined) return `(?<${name}>`;
      if (reference !== undefined) return `\\k<${reference}>`;
      if (group !== undefined && !":=!<".includes(group))
        fail(`has ${JSON.stringify(piece)}, which is not supported`);
      if (piece.startsWith("(?#")) return "";
      return most === undefined ? piece : `{0,${most}}`;
    },
  );
  try {
    return new RegExp(`^(?:${source})$`, letters.replace("u", ""));
  } catch (error) {
    return fail(
      `is not a regular expression (${error instanceof Error ? error.message : String(error)})`,
      error,
    );
  }
}

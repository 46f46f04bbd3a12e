// Options objects of the public API: an option that nobody reads is refused by name, with the one that was probably meant.

import { ConfigError } from "./errors.ts";
import { nearest } from "./nearest.ts";
import { shown } from "./shown.ts";

/**
 * Throws ConfigError if `options` is no object, or has a key that is not in `known`, whatever its value:
 * "max_memmory is no option of from_pretrained; did you mean max_memory?".
 * @param where the function, as callers write it
 * @param elsewhere names that people bring from other libraries, and what to write instead
 */
export function refuseUnknown(
  options: unknown,
  known: Iterable<string>,
  where: string,
  elsewhere: Readonly<Record<string, string>> = {},
): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new ConfigError(`the options of ${where} must be an object, got ${shown(options)}`);
  }
  const names = new Set(known);
  for (const key of Object.keys(options)) {
    if (names.has(key)) continue;
    const advice = Object.hasOwn(elsewhere, key) ? elsewhere[key] : undefined;
    const meant = nearest(key, names);
    const instead =
      advice ?? (meant ? `did you mean ${meant}?` : `it takes ${[...names].sort().join(", ") || "none"}`);
    throw new ConfigError(`${shown(key).slice(1, -1)} is no option of ${where}; ${instead}`);
  }
}

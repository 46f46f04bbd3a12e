// HTML escaping, as markupsafe does it.
import { spend } from "../budget.ts";
import { str } from "./text.ts";
import { Markup, type Value } from "./types.ts";

/** In the order in which they are replaced. */
const ENTITIES = [
  ["&", "&amp;"],
  ["<", "&lt;"],
  [">", "&gt;"],
  ["'", "&#39;"],
  ['"', "&#34;"],
] as const;

export function escapeMarkup(value: Value): Markup {
  if (value instanceof Markup) return value;
  const text = str(value);
  spend(6 * text.length);
  let escaped = text;
  for (const [c, entity] of ENTITIES) escaped = escaped.replaceAll(c, entity);
  spend(escaped.length);
  return new Markup(escaped);
}

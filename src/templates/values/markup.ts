// HTML escaping, as markupsafe does it.
import { spend } from "../budget.ts";
import { str } from "./text.ts";
import { Markup, type Value } from "./types.ts";

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  "'": "&#39;",
  '"': "&#34;",
};

export function escapeHtml(value: Value): Markup {
  if (value instanceof Markup) return value;
  const text = str(value);
  const escaped = text.replace(/[&<>'"]/g, (c) => ENTITIES[c] as string);
  spend(text.length + escaped.length);
  return new Markup(escaped);
}

// The urlize filter: links in text become HTML anchors, as jinja2 finds them.
import { spend } from "../../budget.ts";
import { escapeMarkup } from "../../values/markup.ts";
import type { Value } from "../../values/types.ts";
import { length, SPACES, substring } from "../../values/unicode.ts";

const W = "[\\p{L}\\p{N}_]";
const HTTP = new RegExp(
  "^(?:(?:https?://|www\\.)(?:(?:[\\p{L}\\p{N}_%-]+\\.)+)?(?:[a-z]{2,63}|xn--[\\p{L}\\p{N}_%]{2,59})|" +
    "(?:[\\p{L}\\p{N}_%-]{2,63}\\.)+(?:com|net|int|edu|gov|org|info|mil)|" +
    "https?://(?:\\p{Nd}{1,3}(?:\\.\\p{Nd}{1,3}){3}|\\[(?:[\\p{Nd}a-f]{0,4}:){2}(?:[\\p{Nd}a-f]{0,4}:?){1,6}\\]))" +
    `(?::\\p{Nd}{1,5})?(?:[/?#][^${SPACES}]*)?\\n?$`,
  "iu",
);
const EMAIL = new RegExp(`^[^${SPACES}]+@${W}[\\p{L}\\p{N}_.-]*\\.${W}+\\n?$`, "u");

export interface UrlizeOptions {
  readonly limit: number | undefined;
  readonly rel: string | undefined;
  readonly target: string | undefined;
  readonly schemes: readonly string[];
}

export function urlizeText(value: Value, { limit, rel, target, schemes }: UrlizeOptions): string {
  const { text } = escapeMarkup(value);
  spend(8 * text.length);
  const attributes =
    (rel ? ` rel="${escapeMarkup(rel).text}"` : "") +
    (target ? ` target="${escapeMarkup(target).text}"` : "");
  const shown = (url: string): string =>
    limit !== undefined && length(url) > limit ? `${substring(url, 0, limit)}...` : url;
  const anchor = (href: string, label: string, more: string): string => {
    spend(href.length + label.length + more.length + 20);
    return `<a href="${href}"${more}>${label}</a>`;
  };
  const link = (word: string): string => {
    if (HTTP.test(word)) {
      const href = /^https?:\/\//.test(word) ? word : `https://${word}`;
      return anchor(href, shown(word), attributes);
    }
    if (word.startsWith("mailto:") && EMAIL.test(word.slice(7))) return anchor(word, word.slice(7), "");
    if (word.includes("@") && !/^(?:www\.|@)/.test(word) && !word.includes(":") && EMAIL.test(word)) {
      return anchor(`mailto:${word}`, word, "");
    }
    let linked = word;
    for (const scheme of schemes) {
      if (linked !== scheme && linked.startsWith(scheme)) linked = anchor(linked, linked, attributes);
    }
    return linked;
  };
  return text
    .split(new RegExp(`([${SPACES}]+)`))
    .map((word) => {
      const { head, middle, tail } = trimmed(word);
      return head + link(middle) + tail;
    })
    .join("");
}

/** A word without the brackets and punctuation around it, except those that balance within. */
function trimmed(word: string): { head: string; middle: string; tail: string } {
  const head = /^(?:[(<]|&lt;)+/.exec(word)?.[0] ?? "";
  let middle = word.slice(head.length);
  let tail = "";
  if (/(?:[)>.,\n]|&gt;)$/.test(middle)) {
    let end = middle.length;
    for (;;) {
      if (end > 0 && ")>.,\n".includes(middle.charAt(end - 1))) end -= 1;
      else if (middle.endsWith("&gt;", end)) end -= 4;
      else break;
    }
    tail = middle.slice(end);
    middle = middle.slice(0, end);
  }
  for (const [open, close] of [
    ["(", ")"],
    ["<", ">"],
    ["&lt;", "&gt;"],
  ] as const) {
    const opened = middle.split(open).length - 1;
    if (opened <= middle.split(close).length - 1) continue;
    const moves = Math.min(opened, tail.split(close).length - 1);
    for (let i = 0; i < moves; i++) {
      const end = tail.indexOf(close) + close.length;
      middle += tail.slice(0, end);
      tail = tail.slice(end);
    }
  }
  return { head, middle, tail };
}

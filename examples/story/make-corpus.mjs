// @ts-check
// Writes a corpus of little stories as JSON Lines, {"text": ...}: the same stories for the same seed, everywhere.
//   node examples/story/make-corpus.mjs --out DIR --stories 40000 --seed 1
import { join } from "node:path";
import { parseArgs } from "node:util";
import { countWords } from "./english.mjs";
import * as daysOut from "./plots/days-out.mjs";
import * as friends from "./plots/friends.mjs";
import * as growing from "./plots/growing.mjs";
import * as lost from "./plots/lost.mjs";
import { choices, seedOf } from "./random.mjs";
import { runIfStarted, wholeNumber, writeWhole } from "./script.mjs";

/** @type {readonly import("./beats.mjs").Plot[]} */
export const PLOTS = [lost, growing, friends, daysOut].flatMap((plots) => Object.values(plots));
const FEWEST_WORDS = 80;
const MOST_WORDS = 140;
/** One story of so many is for validation. */
const VALIDATION_SHARE = 200;

/**
 * Story `index` of the corpus with this seed: three paragraphs, 80 to 140 words.
 * @param {number} seed
 * @param {number} index
 */
export function story(seed, index) {
  const r = choices(seedOf(seed, index));
  const plot = r.pick(PLOTS);
  for (;;) {
    const text = plot(r)
      .map((sentences) => sentences.filter(Boolean).join(" "))
      .join("\n\n");
    const words = countWords(text);
    if (words >= FEWEST_WORDS && words <= MOST_WORDS) return text;
  }
}

/**
 * Different stories, divided in two.
 * @param {number} count 2 or more, for both parts together
 * @param {number} seed
 * @returns {{ train: string[], validation: string[] }}
 */
export function corpus(count, seed) {
  /** @type {Set<string>} */
  const stories = new Set();
  for (let i = 0; stories.size < count; i++) stories.add(story(seed, i));
  const all = [...stories];
  const held = Math.max(1, Math.floor(count / VALIDATION_SHARE));
  return { train: all.slice(0, count - held), validation: all.slice(count - held) };
}

await runIfStarted(import.meta.url, async () => {
  const { values } = parseArgs({
    options: {
      out: { type: "string" },
      stories: { type: "string", default: "40000" },
      seed: { type: "string", default: "1" },
    },
  });
  if (values.out === undefined) throw new Error("--out is missing: give the folder to write to");
  const parts = corpus(wholeNumber("stories", values.stories, 2), wholeNumber("seed", values.seed));
  for (const [name, texts] of Object.entries(parts)) {
    const path = join(values.out, `${name}.jsonl`);
    await writeWhole(path, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
    const words = texts.reduce((sum, text) => sum + countWords(text), 0);
    console.log(`${path}: ${texts.length} stories, ${words} words`);
  }
});

// @ts-check
// Sentences that stories of every kind begin and end with.
import { a } from "./english.mjs";

/** @typedef {import("./random.mjs").Choices} Choices */
/** @typedef {import("./people.mjs").Character} Character */
/**
 * A story in the making: paragraphs of sentences, some of which were left out.
 * @typedef {(r: Choices) => (string | undefined)[][]} Plot
 */

const HOUSES = [
  "in a small house by the sea",
  "in a white house near the river",
  "in a village between two hills",
  "in a cottage at the edge of the forest",
  "on a farm with a red barn",
];

/** @type {Readonly<Record<string, string>>} */
const HOMES = {
  den: "in a den under an old oak",
  burrow: "in a burrow under the meadow",
  hole: "in a dry hole under the bridge",
  cave: "in a cave behind the waterfall",
  nest: "in a nest of leaves",
  barn: "in a barn full of hay",
  basket: "in a basket beside the stove",
};

/** One or two sentences that say who the story is about. @param {Choices} r @param {Character} h */
export function opening(r, h) {
  const who = `${a(`${h.trait} ${h.noun}`)} named ${h.name}`;
  const where = (h.isChild ? undefined : HOMES[h.home]) ?? r.pick(HOUSES);
  return r.pick([
    `Once upon a time there was ${who}.`,
    `Once upon a time there was ${who} who lived ${where}.`,
    `Once upon a time there was ${who}. ${h.name} lived ${where}.`,
    `There once was ${who}.`,
    `Long ago there lived ${who}. ${h.name} lived ${where}.`,
    `This is the story of ${who}.`,
  ]);
}

/** The last sentence, for one or for two. @param {Choices} r @param {Character} h @param {Character} [f] */
export function ending(r, h, f) {
  if (f === undefined) {
    return r.pick([
      `That night ${h.name} fell asleep with a smile.`,
      `And ${h.name} was happy for the rest of the day.`,
      `And ${h.name} never forgot that day.`,
    ]);
  }
  return r.pick([
    `From that day on, ${h.name} and ${f.name} were best friends.`,
    `And ${h.name} and ${f.name} laughed and walked home together.`,
    `Then ${h.name} and ${f.name} sat side by side and watched the sun go down.`,
    `That night ${h.name} fell asleep with a smile.`,
    `And ${h.name} never forgot that day.`,
  ]);
}

/** Somebody by name and kind: "Rusty the pig", "Mia from next door". @param {Character} who */
export function called(who) {
  return who.isChild ? `${who.name} from next door` : `${who.name} the ${who.noun}`;
}

const SKIES = [
  "The grass was still wet.",
  "White clouds sailed across the sky.",
  "Birds circled high above.",
  "The church bells rang far away.",
];

/** In some stories, a sentence about the day. @param {Choices} r */
export function scenery(r) {
  const sky = r.pick(SKIES);
  return r.chance(0.3) ? sky : undefined;
}

/** Somebody who is met: "a kind crow named Luna". @param {Pick<Character, "name" | "noun" | "trait">} who */
export function met(who) {
  return `${a(`${who.trait} ${who.noun}`)} named ${who.name}`;
}

export const THANKS = ["Thank you so much!", "Thank you for your help!", "How can I ever thank you?"];
export const SAD = ["felt very sad", "began to cry", "sat down and sighed"];
export const GLAD = ["jumped for joy", "clapped and laughed", "smiled from ear to ear"];

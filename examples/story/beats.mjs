// @ts-check
// Sentences that stories of every kind begin and end with.
import { a, cap } from "./english.mjs";

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
  "in a town with a tall clock",
  "in a cottage at the edge of the forest",
  "on a farm with a red barn",
  "in a house with a blue door",
];

/** @type {Readonly<Record<string, readonly string[]>>} */
const HOMES = {
  den: ["in a den under an old oak", "in a warm den on the hill"],
  burrow: ["in a burrow under the meadow", "in a burrow with three round rooms"],
  hole: ["in a tiny hole behind the kitchen", "in a dry hole under the bridge"],
  cave: ["in a cave behind the waterfall", "in a cave full of soft moss"],
  nest: ["in a nest of leaves", "in a soft nest near the stream"],
  lodge: ["in a lodge in the middle of the pond", "in a lodge made of sticks"],
  barn: ["in a barn full of hay", "in the warmest corner of the barn"],
  stable: ["in a stable next to the field", "in an old stable with a round window"],
  basket: ["in a basket beside the stove", "in a basket on the porch"],
};

/** One or two sentences that say who the story is about. @param {Choices} r @param {Character} h */
export function opening(r, h) {
  const who = `${a(`${h.trait} ${h.noun}`)} named ${h.name}`;
  const where = r.pick((h.isChild ? undefined : HOMES[h.home]) ?? HOUSES);
  return r.pick([
    `Once upon a time there was ${who}.`,
    `Once upon a time there was ${who} who lived ${where}.`,
    `Once upon a time, ${who} lived ${where}.`,
    `There once was ${who}.`,
    `Long ago there lived ${who}. ${cap(h.he)} lived ${where}.`,
    `${h.name} was ${a(`${h.trait} ${h.noun}`)} who lived ${where}.`,
    `${cap(where)} lived ${who}.`,
    `This is the story of ${who}.`,
    `Many years ago, ${who} lived ${where}.`,
  ]);
}

/** The last sentence, for one or for two. @param {Choices} r @param {Character} h @param {Character} [f] */
export function ending(r, h, f) {
  const own = [
    `That night ${h.name} fell asleep with a smile.`,
    `${h.name} went home with a light heart.`,
    `And ${h.name} was happy for the rest of the day.`,
    `${h.name} never forgot that day.`,
    `In the evening ${h.name} told the whole story at the table, and everyone laughed.`,
    `${h.name} smiled all the way home.`,
  ];
  if (f === undefined) return r.pick(own);
  return r.pick([
    ...own.slice(0, 4),
    `From that day on, ${h.name} and ${f.name} were best friends.`,
    `${h.name} and ${f.name} laughed and walked home together.`,
    `After that, the two friends met every day.`,
    `And they lived happily ever after.`,
    `Then ${h.name} and ${f.name} sat side by side and watched the sun go down.`,
  ]);
}

/** Somebody by name and kind: "Rusty the pig", "Mia from next door". @param {Character} who */
export function called(who) {
  return who.isChild ? `${who.name} from next door` : `${who.name} the ${who.noun}`;
}

const SKIES = [
  "The air smelled of hay.",
  "Sparrows chattered in the hedge.",
  "A soft breeze moved the branches.",
  "The grass was still wet.",
  "White clouds sailed across the sky.",
  "Somewhere a cuckoo called.",
  "Birds circled high above.",
  "The hills were far and blue.",
  "The church bells rang in the distance.",
  "A dog barked far away.",
  "The puddles flashed like mirrors.",
  "The shadows were long and blue.",
  "Small yellow flowers shone like little suns.",
  "A woodpecker hammered on a trunk.",
];

/** @type {readonly ((h: Character) => string)[]} */
const FEELINGS = [
  (h) => `${cap(h.he)} hummed a merry tune.`,
  (h) => `${cap(h.he)} had eaten porridge for breakfast and felt strong.`,
  (h) => `${cap(h.he)} was in a good mood.`,
  (h) => `${cap(h.he)} could hardly wait.`,
  (h) => `${cap(h.he)} skipped and hopped along the path.`,
];

/** In some stories, a sentence about the day. @param {Choices} r @param {Character} h */
export function scenery(r, h) {
  if (r.chance(0.6)) return undefined;
  return r.chance(0.7) ? r.pick(SKIES) : r.pick(FEELINGS)(h);
}

/** A sentence that some stories have. @param {Choices} r @param {string} sentence @param {number} [share] of them */
export function maybe(r, sentence, share = 0.6) {
  return r.chance(share) ? sentence : undefined;
}

/** Somebody who is met: "a kind crow named Luna". @param {Pick<Character, "name" | "noun" | "trait">} who */
export function met(who) {
  return `${a(`${who.trait} ${who.noun}`)} named ${who.name}`;
}

export const THANKS = [
  "Thank you so much!",
  "Thank you, you are a true friend!",
  "Thank you for your help!",
  "How can I ever thank you?",
];
export const SAD = [
  "felt very sad",
  "began to cry",
  "sat down and sighed",
  "felt like crying",
  "did not know what to do",
];
export const GLAD = [
  "jumped for joy",
  "clapped and laughed",
  "was so happy",
  "smiled from ear to ear",
  "danced in a circle",
];

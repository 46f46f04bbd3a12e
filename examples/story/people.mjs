// @ts-check
// Who may be in a story: children, animals that talk, and the grown-ups at home. A hero's company never shares the
// hero's pronoun, so that "he" and "she" always say who is meant.
import { otherThan, person } from "./english.mjs";

/** @typedef {import("./random.mjs").Choices} Choices */
/** @typedef {import("./english.mjs").Pronoun} Pronoun */
/** @typedef {import("./english.mjs").Person & { trait: string, home: string, isChild: boolean }} Character */
/** @typedef {keyof typeof ABILITIES} Ability */

// Heroes and the friends they meet share no name, and a small model learns from that whom to speak of.
const HEROES = {
  girl: "Anna Clara Ella Lily Mia Nora Rosa Zoe".split(" "),
  boy: "Ben Finn Hugo Jack Leo Max Sam Tom".split(" "),
  she: "Bella Hazel Pippa Willow".split(" "),
  he: "Bruno Jasper Rusty Ziggy".split(" "),
};
const FRIENDS = {
  she: "Dot Honey Luna Olive Penny Poppy".split(" "),
  he: "Barley Gus Otto Rocky Teddy Toby".split(" "),
};
/** Everybody's name. */
export const NAMES = [...Object.values(HEROES), ...Object.values(FRIENDS)].flat();

/** Animals that can be the hero of a story, and where they live. @type {readonly (readonly [string, string])[]} */
const ANIMALS = [
  ["fox", "den"],
  ["rabbit", "burrow"],
  ["mouse", "hole"],
  ["bear", "cave"],
  ["squirrel", "nest"],
  ["hedgehog", "nest"],
  ["badger", "burrow"],
  ["otter", "den"],
  ["goat", "barn"],
  ["pig", "barn"],
  ["puppy", "basket"],
  ["kitten", "basket"],
];

const TRAITS = ["little", "young", "curious", "cheerful", "clever", "shy", "gentle", "friendly"];

/** Kinds of animals that can do what others cannot. */
const ABILITIES = {
  flies: ["owl", "crow", "robin", "swan"],
  climbs: ["squirrel", "monkey", "cat"],
  digs: ["mole", "dog", "badger"],
  swims: ["duck", "otter", "frog"],
  strong: ["bear", "horse", "ox"],
};

/** @type {readonly (readonly [string, Pronoun])[]} */
const ELDERS = [
  ["mother", "she"],
  ["father", "he"],
  ["grandmother", "she"],
  ["grandfather", "he"],
];

/** @type {readonly Pronoun[]} */
const BOTH = ["she", "he"];

/**
 * A child.
 * @param {Choices} r
 * @param {Pronoun} pronoun
 * @param {readonly string[]} names
 * @returns {Character}
 */
function child(r, pronoun, names) {
  const noun = pronoun === "she" ? "girl" : "boy";
  return { ...person(r.pick(names), noun, pronoun), trait: r.pick(TRAITS), home: "house", isChild: true };
}

/**
 * An animal that talks.
 * @param {Choices} r
 * @param {Pronoun} pronoun
 * @param {readonly string[]} names
 * @param {readonly (readonly [string, string])[]} kinds what it may be, and where that lives
 * @returns {Character}
 */
function animal(r, pronoun, names, kinds) {
  const [noun, home] = r.pick(kinds);
  return { ...person(r.pick(names), noun, pronoun), trait: r.pick(TRAITS), home, isChild: false };
}

/**
 * Somebody a story is about.
 * @param {Choices} r
 * @param {Ability} [cannot] something the hero must not be able to do
 * @returns {Character}
 */
export function hero(r, cannot) {
  const able = cannot === undefined ? [] : ABILITIES[cannot];
  const pronoun = r.pick(BOTH);
  if (r.chance(0.6)) return child(r, pronoun, HEROES[pronoun === "she" ? "girl" : "boy"]);
  const kinds = ANIMALS.filter(([kind]) => !able.includes(kind));
  return animal(r, pronoun, HEROES[pronoun], kinds);
}

/** Another child or animal. @param {Choices} r @param {Character} hero @returns {Character} */
export function friendOf(r, { noun, pronoun, isChild }) {
  const other = otherThan(pronoun);
  if (isChild && r.chance(0.5)) return child(r, other, FRIENDS[other]);
  const kinds = ANIMALS.filter(([kind]) => kind !== noun);
  return animal(r, other, FRIENDS[other], kinds);
}

/** An animal of a kind that can do something. @param {Choices} r @param {Ability} ability @param {Character} hero */
export function helper(r, ability, { noun, pronoun }) {
  const other = otherThan(pronoun);
  const kinds = ABILITIES[ability].filter((kind) => kind !== noun);
  return animal(
    r,
    other,
    FRIENDS[other],
    kinds.map((kind) => /** @type {const} */ ([kind, "home"])),
  );
}

/** Somebody of the family, named by that: "mother". @param {Choices} r @param {Character} hero */
export function elder(r, { pronoun }) {
  const [noun, he] = r.pick(ELDERS.filter(([, own]) => own !== pronoun));
  return person(noun, noun, he);
}

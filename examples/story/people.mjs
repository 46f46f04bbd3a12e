// @ts-check
// Who may be in a story: children, animals that talk, and the grown-ups at home. A hero's company never shares the
// hero's pronoun, so that "he" and "she" always say who is meant.
import { otherThan, person } from "./english.mjs";

/** @typedef {import("./random.mjs").Choices} Choices */
/** @typedef {import("./english.mjs").Pronoun} Pronoun */
/** @typedef {import("./english.mjs").Person & { trait: string, home: string, isChild: boolean }} Character */
/** @typedef {keyof typeof ABILITIES} Ability */

const GIRLS =
  "Mia Anna Lily Rosa Nora Ella Ivy Clara Zoe Emma Lucy Ruby Maya Tess Nina Alma June Greta Hana Leila Iris Sara".split(
    " ",
  );
const BOYS =
  "Tom Ben Max Leo Sam Finn Oscar Hugo Jack Theo Omar Paul Nico Adam Emil Felix Henry Ravi Luca Milo Noah Peter".split(
    " ",
  );
const SHE_ANIMALS =
  "Dot Pippa Luna Bella Hazel Coco Mimi Penny Honey Willow Suki Olive Poppy Fern Nutmeg".split(" ");
const HE_ANIMALS =
  "Jasper Rusty Bruno Toby Gus Otto Biscuit Bramble Rocky Moss Teddy Barley Ziggy Basil Pepper".split(" ");

/** Animals that can be the hero of a story, and where they live. @type {readonly (readonly [string, string])[]} */
const ANIMALS = [
  ["fox", "den"],
  ["rabbit", "burrow"],
  ["mouse", "hole"],
  ["bear", "cave"],
  ["squirrel", "nest"],
  ["hedgehog", "nest"],
  ["duck", "nest"],
  ["badger", "burrow"],
  ["mole", "burrow"],
  ["otter", "den"],
  ["beaver", "lodge"],
  ["raccoon", "den"],
  ["lamb", "barn"],
  ["goat", "barn"],
  ["pony", "stable"],
  ["pig", "barn"],
  ["puppy", "basket"],
  ["kitten", "basket"],
];

const CHILD_TRAITS = [
  "little",
  "young",
  "kind",
  "curious",
  "cheerful",
  "quiet",
  "clever",
  "brave",
  "shy",
  "lively",
  "gentle",
  "busy",
];
const ANIMAL_TRAITS = [
  "little",
  "small",
  "young",
  "curious",
  "cheerful",
  "clever",
  "shy",
  "lively",
  "gentle",
  "friendly",
  "merry",
  "sleepy",
];

/** Kinds of animals that can do what others cannot. */
const ABILITIES = {
  flies: ["bird", "owl", "crow", "robin", "eagle", "swan", "sparrow", "duck"],
  climbs: ["squirrel", "monkey", "cat", "raccoon"],
  digs: ["mole", "dog", "badger", "rabbit"],
  swims: ["duck", "otter", "frog", "fish", "beaver", "turtle"],
  strong: ["bear", "horse", "ox", "elephant"],
};

/** @type {readonly (readonly [string, Pronoun])[]} */
const ELDERS = [
  ["mother", "she"],
  ["father", "he"],
  ["grandmother", "she"],
  ["grandfather", "he"],
  ["aunt", "she"],
  ["uncle", "he"],
];

/** @type {readonly Pronoun[]} */
const BOTH = ["she", "he"];

/** A child. @param {Choices} r @param {Pronoun} pronoun @returns {Character} */
function child(r, pronoun) {
  const she = pronoun === "she";
  return {
    ...person(r.pick(she ? GIRLS : BOYS), she ? "girl" : "boy", pronoun),
    trait: r.pick(CHILD_TRAITS),
    home: "house",
    isChild: true,
  };
}

/**
 * An animal that talks.
 * @param {Choices} r
 * @param {Pronoun} pronoun
 * @param {readonly (readonly [string, string])[]} [kinds] what it may be, and where that lives
 * @returns {Character}
 */
export function animal(r, pronoun, kinds = ANIMALS) {
  const [noun, home] = r.pick(kinds);
  return {
    ...person(r.pick(pronoun === "she" ? SHE_ANIMALS : HE_ANIMALS), noun, pronoun),
    trait: r.pick(ANIMAL_TRAITS),
    home,
    isChild: false,
  };
}

/**
 * Somebody a story is about.
 * @param {Choices} r
 * @param {Ability} [cannot] something the hero must not be able to do
 * @returns {Character}
 */
export function hero(r, cannot) {
  const able = cannot === undefined ? [] : ABILITIES[cannot];
  if (r.chance(0.5)) return child(r, r.pick(BOTH));
  return animal(
    r,
    r.pick(BOTH),
    ANIMALS.filter(([kind]) => !able.includes(kind)),
  );
}

/** Another child or animal. @param {Choices} r @param {Character} hero @returns {Character} */
export function friendOf(r, { noun, pronoun, isChild }) {
  const other = otherThan(pronoun);
  if (isChild && r.chance(0.6)) return child(r, other);
  return animal(
    r,
    other,
    ANIMALS.filter(([kind]) => kind !== noun),
  );
}

/** An animal of a kind that can do something. @param {Choices} r @param {Ability} ability @param {Character} hero */
export function helper(r, ability, { noun, pronoun }) {
  const kinds = ABILITIES[ability].filter((kind) => kind !== noun);
  return animal(
    r,
    otherThan(pronoun),
    kinds.map((kind) => [kind, "home"]),
  );
}

/** Somebody of the family, named by that: "mother". @param {Choices} r @param {Character} hero */
export function elder(r, { pronoun }) {
  const [noun, he] = r.pick(ELDERS.filter(([, own]) => own !== pronoun));
  return person(noun, noun, he);
}

// @ts-check
// The little grammar the stories need: articles, capitals, pronouns, quotations. Not a grammar of English.

/** @typedef {import("./random.mjs").Choices} Choices */
/** @typedef {keyof typeof PRONOUNS} Pronoun */
/**
 * Somebody: a name, what they are ("girl", "fox"), and pronouns under their masculine names.
 * @typedef {{ name: string, noun: string, pronoun: Pronoun, he: string, him: string, his: string }} Person
 */

/** Letters are not sounds, but in the words of these stories they are near enough. */
const VOWEL_SOUND = /^(?:[aeio]|u(?!ni|se)|hour|honest)/i;

/** "a fox", "an owl". @param {string} phrase */
export function a(phrase) {
  return `${VOWEL_SOUND.test(phrase) ? "an" : "a"} ${phrase}`;
}

/** First letter large. @param {string} text */
export function cap(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** "one, two and three". @param {readonly string[]} items */
export function list(items) {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

const PRONOUNS = {
  she: { he: "she", him: "her", his: "her" },
  he: { he: "he", him: "him", his: "his" },
};

/** The other pronoun. @param {Pronoun} pronoun @returns {Pronoun} */
export function otherThan(pronoun) {
  return pronoun === "she" ? "he" : "she";
}

/** @param {string} name @param {string} noun @param {Pronoun} pronoun @returns {Person} */
export function person(name, noun, pronoun) {
  return { name, noun, pronoun, ...PRONOUNS[pronoun] };
}

/** How words that end so are said. @type {Readonly<Record<string, readonly string[]>>} */
const TAGS = { ".": ["said"], "?": ["asked"], "!": ["cried", "called"] };

/**
 * What somebody says, as a sentence: `"Come here," said Tom.`
 * @param {Choices} r
 * @param {{ name: string } | string} who a person, or words such as "his mother"
 * @param {string} words a sentence or more, with the mark that ends it
 */
export function say(r, who, words) {
  const verb = r.pick(TAGS[words.slice(-1)] ?? ["said"]);
  const quoted = words.endsWith(".") ? `${words.slice(0, -1)},` : words;
  return `"${quoted}" ${verb} ${typeof who === "string" ? who : who.name}.`;
}

/** Words of a text. @param {string} text */
export function countWords(text) {
  return text.split(/\s+/).filter(Boolean).length;
}

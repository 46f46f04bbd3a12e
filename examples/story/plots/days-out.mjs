// @ts-check
// Stories of ways and weather: a long walk, a spoiled picnic, a dish that lacks something, a thing that is built, a night awake.
import { called, ending, GLAD, maybe, met, opening, THANKS } from "../beats.mjs";
import { a, cap, list, say } from "../english.mjs";
import { elder, friendOf, helper, hero } from "../people.mjs";
import { BARRIERS, DISHES, FAR, MORNINGS, PLACES, TREATS } from "../words.mjs";

/** @typedef {import("../beats.mjs").Plot} Plot */

/** A walk to a far place, with something in the way. @type {Plot} */
export function journey(r) {
  const far = r.pick(FAR);
  const barrier = r.pick(BARRIERS);
  const h = hero(r, barrier.by);
  const f = helper(r, barrier.by, h);
  const packed = r.sample(
    [
      "some bread",
      "a bottle of water",
      "three apples",
      "a warm blanket",
      "a piece of cheese",
      "a small map",
      "a bag of nuts",
    ],
    2,
  );
  return [
    [
      opening(r, h),
      r.pick([
        `${cap(h.he)} had always wanted to see ${far.goal}.`,
        `Old people talked about ${far.goal}, and ${h.name} wanted to see it.`,
      ]),
      `${r.pick(MORNINGS)} ${h.he} packed ${list(packed)} and set out.`,
      maybe(
        r,
        r.pick([
          "The road was long, and the sun was hot.",
          "The path went up and down, through woods and fields.",
        ]),
        0.5,
      ),
    ],
    [
      `But then there was ${barrier.is}.`,
      say(r, h, r.pick(["How can I go on?", "Oh no! I cannot turn back now.", "There must be a way."])),
      `${cap(met(f))} asked where ${h.he} wanted to go.`,
      say(r, h, `I want to see ${far.goal}.`),
      say(
        r,
        f,
        r.pick(["I have never been there. May I come with you?", "I will help you, if I may come along!"]),
      ),
      `${f.name} ${barrier.helped}, and soon they were on the other side.`,
    ],
    [
      r.pick([
        "They went on together and sang all the way.",
        "They shared the food and walked on until evening.",
      ]),
      `At last they saw ${far.goal}. ${far.see}.`,
      say(
        r,
        h,
        r.pick([
          "It is even better than I thought!",
          "I will remember this for ever.",
          "I am so glad that we did not give up.",
        ]),
      ),
      maybe(r, `${f.name} ${r.pick(GLAD)}.`, 0.3),
      ending(r, h, f),
    ],
  ];
}

/** Rain spoils a plan, and something better comes of it. @type {Plot} */
export function rain(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const place = r.pick(PLACES.filter(({ name }) => name !== "market"));
  const treats = r.sample(TREATS, 2).map(({ some }) => some);
  const shelter = r.pick([
    "under a big tree",
    "in an empty barn",
    "in a small cave",
    "under an old boat",
    "in a hollow log",
    "in a little hut",
  ]);
  const fun = r.pick([
    "told each other the scariest stories they knew",
    "made up a play about a king and a queen of the rain",
    "counted the drops and gave them names",
    "drummed on the wood until it sounded like music",
    "ate everything and called it a feast in a castle",
  ]);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS.filter((m) => !m.includes("cold")))} ${h.name} and ${called(f)} wanted to have a picnic ${place.at}.`,
      `They took a basket with ${list(treats)}, and ${h.name} carried a blanket.`,
      r.pick([
        "The sky was blue, and the birds sang.",
        "There was not a single cloud to be seen.",
        "The sun was bright and warm.",
      ]),
    ],
    [
      r.pick([
        `But just as they sat down, big drops began to fall.`,
        `But then the sky turned gray, and it began to rain.`,
        `But suddenly there was thunder, and it poured.`,
      ]),
      say(r, f, r.pick(["Oh no, our picnic!", "Everything will get wet!", "Run!"])),
      `They picked up the basket and ran until they found a dry place ${shelter}.`,
      `${f.name} was ${r.pick(["wet and cross", "cold and sad", "very disappointed"])}.`,
      say(r, h, r.pick(["Let us have our picnic here!", "Rain is no reason to be sad.", "I have an idea!"])),
    ],
    [
      `They spread the blanket and ${fun}.`,
      r.pick([
        "They did not even notice that the rain had stopped.",
        "When they looked outside, the sun was back.",
      ]),
      r.pick([
        "A rainbow stood over the hills.",
        "Every leaf was bright and clean, and there were puddles to jump in.",
      ]),
      say(
        r,
        f,
        r.pick([
          "That was the best picnic ever!",
          "I hope that it rains again next time!",
          "I am glad that it rained.",
        ]),
      ),
      ending(r, h, f),
    ],
  ];
}

/** A dish lacks one thing; neighbors trade until it is there. @type {Plot} */
export function dish(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const old = elder(r, h);
  const it = r.pick(DISHES);
  const missing = r.pick(it.needs.filter((need) => need !== "water"));
  const [wants, did] = r.pick([
    ["someone to carry wood", "carried a big pile of wood"],
    ["somebody to sweep the yard", "swept the whole yard"],
    ["a helper to find my glasses", "found the glasses in the sugar bowl"],
    ["someone to hold the ladder", "held the ladder with great care"],
    ["somebody to feed the hens", "fed the hens, one by one"],
  ]);
  const many = missing.endsWith("s");
  const there = many ? "they were" : "it was";
  const vessel = ["cream", "milk", "butter"].includes(missing) ? "bowl" : "bag";
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.his} ${old.noun} wanted to make ${a(it.name)}.`,
      `${h.name} put ${list(it.needs.filter((need) => need !== missing))} on the table.`,
      `But where ${many ? "were" : "was"} the ${missing}? There ${many ? "were none" : "was none"} left.`,
      say(r, h, r.pick([`I will find some ${missing}!`, "Do not worry. I will ask the neighbors."])),
    ],
    [
      `So ${h.name} ran to ask ${called(f)}.`,
      say(r, f, `I have plenty of ${missing}. But I need ${wants}.`),
      say(
        r,
        h,
        r.pick(["I can do that!", "Nothing is easier than that!", "Of course! Friends help each other."]),
      ),
      `${h.name} ${did}, and ${f.name} gave ${h.him} a ${vessel} of ${missing}.`,
    ],
    [
      `${h.name} ran home, and there ${there} at last: the ${missing}!`,
      `They mixed, stirred and waited, and soon the whole house smelled of ${it.name}.`,
      r.pick([
        `Of course ${f.name} came to supper, too.`,
        `"We must thank ${f.name}," said ${h.name}, and they set one more plate on the table.`,
      ]),
      say(
        r,
        f,
        r.pick([
          `This is the best ${it.name} that I ever had!`,
          "It tastes of friendship.",
          "May I have some more?",
        ]),
      ),
      ending(r, h, f),
    ],
  ];
}

/** Something built together holds, after it did not hold alone. @type {Plot} */
export function building(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const [what, place, alone, again, trick] = r.pick([
    [
      "a raft",
      "by the river",
      "it fell apart in the water",
      "it fell apart once more",
      "tied the logs with strong rope",
    ],
    [
      "a sand castle",
      "on the beach",
      "a wave washed it away",
      "the next wave took it",
      "built it higher up and dug a ditch around it",
    ],
    [
      "a tree house",
      "in the forest",
      "the floor broke with a loud crack",
      "the floor broke once more",
      "put two thick beams under the floor",
    ],
    [
      "a hut of branches",
      "on the hill",
      "the roof came down on everything",
      "the roof came down once more",
      "tied the branches together at the top",
    ],
    [
      "a bridge",
      "over the stream",
      "it sank in the middle",
      "it sank once more",
      "put a flat stone under it",
    ],
    ["a kite", "in the meadow", "it dropped like a stone", "it dropped once more", "gave it a longer tail"],
    [
      "a swing",
      "in the orchard",
      "the rope broke at once",
      "the rope broke once more",
      "twisted three ropes into one",
    ],
  ]);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.he} wanted to build ${what} ${place}.`,
      say(
        r,
        `${h.his} friend ${f.name}`,
        r.pick(["Can I help you?", "That looks like hard work. Shall I help?"]),
      ),
      say(r, h, r.pick(["No, I can do it alone.", "No, I do not need any help."])),
      `So ${f.name} sat down and watched.`,
    ],
    [
      `${h.name} worked for hours, but ${alone}.`,
      `${cap(h.he)} started again, but ${again}.`,
      r.pick([
        `${cap(h.he)} kicked the ground and was angry.`,
        `${cap(h.he)} sat down and did not know what was wrong.`,
      ]),
      say(
        r,
        h,
        r.pick([
          "Maybe I do need help.",
          "I was silly. Would you still help me?",
          "Two heads are better than one, I think.",
        ]),
      ),
    ],
    [
      `${f.name} was glad to help. Together they ${trick}.`,
      r.pick([
        `This time it held!`,
        `And look, now it worked!`,
        `When they were done, it was the best one far and wide.`,
      ]),
      r.pick([say(r, h, r.pick(THANKS)), say(r, h, "Without you it would never have worked.")]),
      maybe(
        r,
        say(
          r,
          f,
          r.pick([
            "I could not have done it alone, either.",
            "It was your idea. I only helped.",
            "Next time we start together!",
          ]),
        ),
      ),
      ending(r, h, f),
    ],
  ];
}

/** An animal or a child cannot sleep and tries what others say. @type {Plot} */
export function sleepless(r) {
  const h = hero(r);
  const old = elder(r, h);
  const [one, two] = r.sample(
    [
      ["Count the sheep", `counted ninety sheep, but then ${h.he} wondered where they all went`],
      ["Drink some warm milk", `drank a big cup of warm milk, but then ${h.he} was hungry`],
      ["Think of something nice", `thought of a birthday cake, but then ${h.he} wanted to have one`],
      ["Listen to the wind", `listened to the wind, but it told such exciting stories`],
      ["Close your eyes and lie still", `lay as still as a stone, but ${h.his} nose began to itch`],
    ],
    2,
  );
  return [
    [
      opening(r, h),
      r.pick([
        `One night ${h.he} could not sleep.`,
        `It was late, and the moon was high, but ${h.name} was wide awake.`,
      ]),
      r.pick([
        `${cap(h.he)} turned to the left, and ${h.he} turned to the right.`,
        `The bed was too warm, and the blanket was too short.`,
      ]),
      say(r, h, r.pick(["I am not tired at all!", "Why can I not sleep?"])),
    ],
    [
      say(r, `${h.his} ${old.noun}`, `${one[0]}.`),
      `${h.name} ${one[1]}.`,
      say(r, `${h.his} ${old.noun}`, `${two[0]}.`),
      `${h.name} ${two[1]}.`,
      say(r, h, r.pick(["It does not help!", "Now I am even more awake."])),
    ],
    [
      `So ${h.his} ${old.noun} sat down beside ${h.him} and began to tell a story.`,
      `"Once upon a time," ${old.he} said, "there was ${a(`${r.pick(["small", "sleepy", "brave"])} ${r.pick(["cloud", "star", "ship", "snail", "dragon"])} that wanted to go around the world..."`)}`,
      r.pick([
        `${h.name} never heard how it ended.`,
        `Before the story was half told, ${h.name} was fast asleep.`,
      ]),
      `${cap(h.his)} ${old.noun} smiled, blew out the candle and whispered, "Good night."`,
    ],
  ];
}

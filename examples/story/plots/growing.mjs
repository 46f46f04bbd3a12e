// @ts-check
// Stories of somebody who learns something: to do a thing, to wait, to be brave, to tell the truth.
import { ending, GLAD, maybe, met, opening, SAD, scenery } from "../beats.mjs";
import { a, cap, otherThan, say } from "../english.mjs";
import { animal, elder, friendOf, hero } from "../people.mjs";
import { FRAGILE, MORNINGS, NOISES, PLACES, PLANTS, SKILLS } from "../words.mjs";

/** @typedef {import("../beats.mjs").Plot} Plot */

/** Wants to do something, fails, gets advice, practices, does it. @type {Plot} */
export function skill(r) {
  const it = r.pick(SKILLS);
  const h = hero(r, it.ability);
  const f = friendOf(r, h);
  const place = r.pick(PLACES.filter(({ name }) => name === it.at));
  return [
    [
      opening(r, h),
      r.pick([
        `All ${h.his} friends could ${it.to}, but ${h.name} could not.`,
        `${h.name} had one wish: ${h.he} wanted to ${it.to}.`,
        `Every night ${h.name} dreamed that ${h.he} could ${it.to}.`,
      ]),
      `${r.pick(MORNINGS)} ${h.he} went ${place.to} to try it.`,
      scenery(r, h),
      r.pick([`But ${h.he} ${it.wrong}.`, `${cap(h.he)} tried once, and ${h.he} ${it.wrong}.`]),
    ],
    [
      say(r, h, r.pick(["I will never learn it!", "This is too hard for me.", "I give up."])),
      r.pick([`${cap(met(f))} sat nearby.`, `${cap(met(f))} had watched ${h.him}.`]),
      say(
        r,
        f,
        r.pick([
          "I could not do it at first, either.",
          "Nobody can do it on the first day.",
          "Try again. I will show you how.",
        ]),
      ),
      `${cap(f.he)} gave ${h.him} some advice: "${it.tip}."`,
      r.pick([
        `${h.name} tried again the next day, and the day after that.`,
        `${h.name} tried it again and again, and each time it went a little better.`,
        `So ${h.name} practiced every day for a week.`,
      ]),
    ],
    [
      r.pick([
        `Then, at last, ${h.he} ${it.right}.`,
        `One day, ${h.he} ${it.right}.`,
        `And look! This time ${h.he} ${it.right}.`,
      ]),
      say(r, h, r.pick(["I did it!", "Look at me!", "I can really do it!"])),
      say(r, f, r.pick(["I knew that you could do it!", "You see? You did not give up.", "Well done!"])),
      ending(r, h, f),
    ],
  ];
}

/** A seed is planted; waiting is hard; it grows. @type {Plot} */
export function seed(r) {
  const h = hero(r);
  const old = elder(r, h);
  const it = r.pick(PLANTS);
  return [
    [
      opening(r, h),
      `In spring ${h.his} ${old.noun} gave ${h.him} ${a(it.seed)}.`,
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick(["Plant it and be patient.", "Give it water, sun and time.", "Take good care of it."]),
      ),
      r.pick([
        `${h.name} dug a small hole, put the ${it.seed} inside and covered it with earth.`,
        `${h.name} planted it beside the gate and gave it a cup of water.`,
      ]),
    ],
    [
      maybe(r, `That night ${h.he} dreamed of it.`, 0.4),
      `The next morning ${h.he} ran outside, but there was nothing to see.`,
      r.pick([
        `A week went by, and still there was nothing.`,
        `${cap(h.he)} waited for ten days, and nothing came up.`,
      ]),
      say(r, h, r.pick(["Why does it not grow?", "I think it is asleep.", "Maybe I did something wrong."])),
      r.pick([
        `${h.name} wanted to dig it up again, but ${h.his} ${old.noun} shook ${old.his} head.`,
        `${h.name} sang to it, read to it and told it jokes.`,
      ]),
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick([
          "Good things take time.",
          "It grows in the dark first.",
          "You cannot see it yet, but it hears you.",
        ]),
      ),
    ],
    [
      r.pick([
        `Then, after a night of rain, a tiny green leaf came out of the ground.`,
        `And one day there was a small green tip in the earth.`,
      ]),
      `It grew and grew, and by ${r.pick(["summer", "autumn", "the end of the year"])} there was ${it.grown}.`,
      `${h.name} ${r.pick(GLAD)}.`,
      r.pick([
        `Now ${h.he} knew that waiting can be worth it.`,
        `${cap(h.he)} gave new seeds to all ${h.his} friends.`,
        `"We both grew," said ${h.name}.`,
      ]),
      ending(r, h),
    ],
  ];
}

/** A noise in the night turns out to be harmless. @type {Plot} */
export function noise(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const it = r.pick(NOISES);
  return [
    [
      opening(r, h),
      r.pick([
        `${cap(h.he)} was not afraid of anything, except the dark.`,
        `In the daytime ${h.he} was brave, but at night ${h.he} was not.`,
      ]),
      r.pick([
        `One night ${h.he} could not sleep.`,
        `One night ${h.he} woke up.`,
        `One stormy night ${h.he} lay awake.`,
      ]),
      `There was a noise ${it.where}. "${cap(it.sound)}," it went.`,
    ],
    [
      r.pick([
        `${h.name} pulled the blanket over ${h.his} head.`,
        `${h.name} held ${h.his} breath.`,
        `${h.name} shook with fear.`,
      ]),
      say(r, h, r.pick(["Who is there?", "It must be a monster!", "Please go away!"]), "whispered"),
      maybe(r, `${cap(it.sound)}, went the noise again.`),
      r.pick([
        `${cap(h.he)} woke up ${h.his} friend ${f.name}, who slept beside ${h.him}.`,
        `${cap(h.he)} called for ${h.his} friend ${f.name}.`,
      ]),
      say(
        r,
        f,
        r.pick([
          "Let us look together.",
          "Stay close to me. We will see what it is.",
          "I am a little scared, too. But two are braver than one.",
        ]),
      ),
    ],
    [
      r.pick([
        `They took a lamp and went to see.`,
        `Slowly, step by step, they went closer.`,
        `They lit a candle and opened the door.`,
      ]),
      `It was only ${it.cause}!`,
      r.pick([
        `They laughed until they had to sit down.`,
        `${h.name} laughed out loud.`,
        `"Is that all?" said ${h.name}.`,
      ]),
      say(
        r,
        f,
        r.pick([
          "Things are smaller when you look at them.",
          "You see, there was no monster.",
          "You were very brave.",
        ]),
      ),
      r.pick([
        `After that, ${h.name} slept like a stone.`,
        `From then on, ${h.name} was never afraid of the dark again.`,
        ending(r, h, f),
      ]),
    ],
  ];
}

/** Something is broken; hiding it feels worse than telling. @type {Plot} */
export function truth(r) {
  const h = hero(r);
  const old = elder(r, h);
  const thing = r.pick(FRAGILE);
  const [game, oops] = r.pick([
    ["played ball inside the house", "The ball flew across the room"],
    ["danced around the table", "One wild jump was too much"],
    ["chased a fly through the kitchen", "The fly turned, but the chair fell over"],
    ["played that the sofa was a ship", "A big wave came, and everything shook"],
  ]);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.he} ${game}.`,
      `${oops}, and crash! The ${thing} broke into pieces.`,
      r.pick([`It belonged to ${h.his} ${old.noun}.`, `${cap(h.his)} ${old.noun} loved it very much.`]),
    ],
    [
      r.pick([
        `${h.name} was afraid, and ${h.he} hid the pieces under the bed.`,
        `Quickly ${h.name} pushed the pieces behind the door.`,
      ]),
      `But ${r.pick(["at supper", "all afternoon", "at bedtime"])} ${h.his} stomach felt heavy, as if ${h.he} had eaten a stone.`,
      r.pick([
        `The food did not taste good, and the games were no fun.`,
        `${cap(h.he)} could not play, and ${h.he} could not sleep.`,
      ]),
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick(["Is something wrong?", "Why are you so quiet?", "You look sad today."]),
      ),
    ],
    [
      `${h.name} took a deep breath.`,
      say(
        r,
        h,
        r.pick([
          `I broke your ${thing}, and I am sorry.`,
          `It was me. I broke the ${thing}, and then I hid it.`,
        ]),
      ),
      `${cap(h.his)} ${old.noun} was quiet for a moment. Then ${old.he} smiled.`,
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick([
          "Thank you for telling me the truth.",
          "I am sad about it, but I am glad that you told me.",
          "It takes courage to say that.",
        ]),
      ),
      r.pick([
        `Together they glued the ${thing}, piece by piece.`,
        `Together they swept up the pieces and went to find a new one.`,
      ]),
      r.pick([`${h.name} felt as light as a feather.`, ending(r, h)]),
    ],
  ];
}

/** A wish is granted, and it is not what one thought. @type {Plot} */
export function wish(r) {
  const h = hero(r);
  const fairy = animal(r, otherThan(h.pronoun), [
    ["frog", "pond"],
    ["fish", "lake"],
    ["owl", "nest"],
    ["moth", "nest"],
  ]);
  const [want, then, lesson] = r.pick([
    [
      "to be as big as a house",
      "could not fit through any door, and nobody wanted to play",
      "being small was just right",
    ],
    [
      "that it would snow every day",
      "was cold, and all the flowers went to sleep",
      "every season has its time",
    ],
    [
      "that everything would taste like honey",
      "could not eat another bite, for even the soup was sweet",
      "sweet things are best when they are rare",
    ],
    ["to stay awake for ever", "was tired and cross, and the days had no end", "sleep is a gift"],
    ["that nobody would ever say no", "had no one who spoke the truth", "a good friend says no sometimes"],
    [
      "to fly higher than the clouds",
      "was lonely, because nobody else was up there",
      "home is where friends are",
    ],
  ]);
  return [
    [
      opening(r, h),
      r.pick([
        `${r.pick(MORNINGS)} ${h.he} freed ${met(fairy)} from an old net.`,
        `${r.pick(MORNINGS)} ${h.he} gave half of ${h.his} bread to ${met(fairy)}.`,
      ]),
      `"${r.pick(["You were kind to me", "I am a magic animal", "You have a good heart"])}," said ${fairy.name}. "You have one wish."`,
      maybe(r, `${h.name} thought for a moment.`),
      `${cap(h.he)} wished ${want}.`,
    ],
    [
      r.pick([
        "There was a flash of blue light, and the wish came true.",
        "The air shook like water, and the wish came true.",
      ]),
      maybe(r, `At first ${h.name} ${r.pick(GLAD)}.`, 0.7),
      `But soon ${h.he} ${then}.`,
      `${h.name} ${r.pick(SAD)}.`,
    ],
    [
      r.pick([
        `${cap(h.he)} went back to look for ${fairy.name}.`,
        `For three days ${h.he} looked for ${fairy.name}.`,
      ]),
      say(
        r,
        h,
        r.pick([
          "Please take the wish back!",
          "I want everything to be the way it was.",
          "I wish that all were as before.",
        ]),
      ),
      say(
        r,
        fairy,
        r.pick([
          "Have you learned something?",
          "I hoped that you would say that.",
          "That is the wisest wish of all.",
        ]),
      ),
      r.pick(["The blue light came again, and all was well.", "A moment later everything was as before."]),
      `Now ${h.name} knew that ${lesson}.`,
      ending(r, h),
    ],
  ];
}

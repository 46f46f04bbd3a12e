// @ts-check
// Stories of somebody who learns something: to do a thing, to wait, to be brave.
import { ending, met, opening } from "../beats.mjs";
import { a, cap, say } from "../english.mjs";
import { elder, friendOf, hero } from "../people.mjs";
import { MORNINGS, NOISES, PLACES, PLANTS, SKILLS } from "../words.mjs";

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
        `All the others could ${it.to}, but ${h.name} could not.`,
        `Every night ${h.name} dreamed that ${h.he} could ${it.to}.`,
      ]),
      `${r.pick(MORNINGS)} ${h.name} went ${place.to} to try it.`,
      `But ${h.name} ${it.wrong}.`,
    ],
    [
      say(r, h, r.pick(["I will never learn it!", "This is too hard for me."])),
      `${cap(met(f))} had watched ${h.him}.`,
      say(r, f, r.pick(["Try again. I will show you how.", "Nobody can do it on the first day."])),
      `Then ${f.name} gave ${h.name} some advice: "${it.tip}."`,
      r.pick([
        `${h.name} tried it again and again.`,
        `So ${h.name} and ${f.name} practiced every day for a week.`,
      ]),
    ],
    [
      `Then, at last, ${h.name} ${it.right}.`,
      say(r, h, r.pick(["I did it!", "Look at me!"])),
      say(r, f, r.pick(["I knew that you could do it!", "You did not give up."])),
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
      `In spring ${h.his} ${old.noun} gave ${h.name} ${a(it.seed)}.`,
      say(r, `${h.his} ${old.noun}`, r.pick(["Plant it and be patient.", "Give it water, sun and time."])),
      `So ${h.name} dug a small hole, put the ${it.seed} inside and covered it with earth.`,
    ],
    [
      `The next morning ${h.name} ran outside, but there was nothing to see.`,
      say(r, h, r.pick(["Why does it not grow?", "Maybe I did something wrong."])),
      say(r, `${h.his} ${old.noun}`, r.pick(["Good things take time.", "It grows in the dark first."])),
    ],
    [
      `Then, at last, a tiny green leaf came out of the ground.`,
      `It grew and grew, and by ${r.pick(["summer", "autumn"])} there was ${it.grown}.`,
      say(r, h, r.pick([`Look at my ${it.plant}!`, `This is the best ${it.plant} in the world!`])),
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
        `${h.name} was not afraid of anything, except the dark.`,
        `In the daytime ${h.name} was brave, but at night ${h.name} was not.`,
      ]),
      r.pick([`One night ${h.name} could not sleep.`, `One night ${h.name} woke up.`]),
      `There was a noise ${it.where}. "${cap(it.sound)}," it went.`,
    ],
    [
      r.pick([`Quickly ${h.name} pulled the blanket up.`, `Poor ${h.name} shook with fear.`]),
      say(r, h, r.pick(["Who is there?", "It must be a monster!"])),
      `Then ${h.name} called for ${h.his} friend ${f.name}.`,
      say(r, f, r.pick(["Let us look together.", "Stay close to me."])),
    ],
    [
      r.pick([`They took a lamp and went to see.`, `They lit a candle and opened the door.`]),
      `It was only ${it.cause}!`,
      `${h.name} and ${f.name} laughed until they had to sit down.`,
      say(r, f, r.pick(["You see, there was no monster.", "You were very brave."])),
      `From then on, ${h.name} was never afraid of the dark again.`,
    ],
  ];
}

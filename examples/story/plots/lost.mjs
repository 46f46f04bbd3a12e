// @ts-check
// Stories of things and animals that get lost, and of how they are found.
import { ending, GLAD, met, opening, SAD, scenery, THANKS } from "../beats.mjs";
import { a, cap, say } from "../english.mjs";
import { friendOf, helper, hero } from "../people.mjs";
import { FLYERS, FOUNDLINGS, HIGH_PLACES, MORNINGS, PLACES, TREASURES } from "../words.mjs";

/** @typedef {import("../beats.mjs").Plot} Plot */

/** A treasure is lost, looked for in two spots, and found. @type {Plot} */
export function lostTreasure(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const place = r.pick(PLACES);
  const thing = r.pick(TREASURES);
  const [first, second] = r.sample(place.spots, 2);
  return [
    [
      opening(r, h),
      `More than anything, ${h.name} loved ${h.his} ${thing}.`,
      `${r.pick(MORNINGS)} ${h.name} went ${place.to} to play.`,
      scenery(r),
      r.pick([
        `But when ${h.name} looked for the ${thing}, it was gone!`,
        `Suddenly ${h.name} saw that the ${thing} was missing.`,
      ]),
    ],
    [
      `Poor ${h.name} ${r.pick(SAD)}. Then ${met(f)} came by.`,
      say(r, f, r.pick(["What is wrong?", "Can I help you?"])),
      say(r, h, r.pick([`I lost my ${thing}.`, `My ${thing} is gone.`])),
      say(r, f, r.pick(["We will look for it together.", "Two can find more than one."])),
    ],
    [
      `They looked ${first}, but the ${thing} was not there.`,
      `Then ${f.name} looked ${second}, and there was the ${thing}!`,
      `${h.name} ${r.pick(GLAD)}. ${say(r, h, r.pick(THANKS))}`,
      ending(r, h, f),
    ],
  ];
}

/** Something flies up, cannot be reached, and is brought down by somebody who can. @type {Plot} */
export function stuckUpHigh(r) {
  const h = hero(r, "climbs");
  const place = r.pick(PLACES);
  const high = r.pick(HIGH_PLACES);
  const thing = r.pick(FLYERS);
  const ability = r.pick(["flies", "climbs"]);
  const f = helper(r, ability, h);
  const verb = ability === "flies" ? "flew" : "climbed";
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.name} took ${h.his} ${thing} ${place.to}.`,
      r.pick([
        `A strong wind came and carried the ${thing} away.`,
        `All at once the wind took the ${thing} and blew it high into the air.`,
      ]),
      `It got stuck ${high.at}.`,
    ],
    [
      r.pick([
        `Again and again ${h.name} jumped, but the ${high.of} was too high.`,
        `Poor ${h.name} threw a stick, but the ${high.of} was too high.`,
      ]),
      `Then ${met(f)} came by.`,
      say(r, h, `My ${thing} is ${high.at}.`),
      say(r, f, r.pick(["That is easy for me!", "Wait here. I can get it."])),
    ],
    [
      `Then ${f.name} ${verb} up, took the ${thing} and brought it down ${high.from}.`,
      say(r, h, r.pick(THANKS)),
      `${h.name} let ${f.name} play with the ${thing} for the rest of the day.`,
      ending(r, h, f),
    ],
  ];
}

/** A small animal in trouble is brought back to where it belongs. @type {Plot} */
export function foundling(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const small = r.pick(
    FOUNDLINGS.filter(({ young, family }) =>
      [h, f].every(({ noun }) => !young.includes(noun) && !family.includes(noun)),
    ),
  );
  const place = r.pick(PLACES);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.name} and ${h.his} friend ${f.name} walked ${place.to}.`,
      r.pick(["They heard a tiny cry.", "Suddenly they stopped and listened."]),
      `${cap(a(small.young))} ${small.trouble}.`,
    ],
    [
      say(r, h, r.pick(["Oh, you poor little thing!", "We cannot leave it here."])),
      say(r, f, r.pick([`It belongs in the ${small.home}.`, "It must miss its family."])),
      r.pick([
        `${h.name} spoke in a quiet voice to the ${small.young}.`,
        `${f.name} gave the ${small.young} a drop of water.`,
      ]),
      `Then they ${small.way}.`,
    ],
    [
      `The ${small.family} had looked for it everywhere.`,
      `The ${small.young} ${small.sound} as if to say thank you.`,
      say(r, f, r.pick(["Now it is home again.", "I am proud of us!"])),
      `After that, the ${small.young} came to visit ${h.name} every ${r.pick(["week", "morning"])}.`,
      ending(r, h, f),
    ],
  ];
}

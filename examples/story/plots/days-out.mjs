// @ts-check
// Stories of ways and weather: a long walk, a spoiled picnic, a thing that is built.
import { called, ending, met, opening, THANKS } from "../beats.mjs";
import { cap, list, say } from "../english.mjs";
import { friendOf, helper, hero } from "../people.mjs";
import { BARRIERS, BUILT, FAR, MORNINGS, PLACES, TREATS } from "../words.mjs";

/** @typedef {import("../beats.mjs").Plot} Plot */

/** A walk to a far place, with something in the way. @type {Plot} */
export function journey(r) {
  const far = r.pick(FAR);
  const barrier = r.pick(BARRIERS);
  const h = hero(r, barrier.by);
  const f = helper(r, barrier.by, h);
  const packed = r.sample(["some bread", "three apples", "a warm blanket", "a small map"], 2);
  return [
    [
      opening(r, h),
      `${h.name} had always wanted to see ${far.goal}.`,
      `${r.pick(MORNINGS)} ${h.name} packed ${list(packed)} and set out.`,
    ],
    [
      `But then there was ${barrier.is}.`,
      `${cap(met(f))} asked where ${h.name} wanted to go.`,
      say(r, h, `I want to see ${far.goal}.`),
      say(r, f, r.pick(["May I come with you?", "I will help you!"])),
      `Then ${f.name} ${barrier.helped}, and soon they were on the other side.`,
    ],
    [
      `At last ${h.name} and ${f.name} saw ${far.goal}. ${far.see}.`,
      say(r, h, r.pick(["I will remember this for ever.", "I am so glad that we did not give up."])),
      ending(r, h, f),
    ],
  ];
}

/** Rain spoils a plan, and something better comes of it. @type {Plot} */
export function rain(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const place = r.pick(PLACES);
  const treats = r.pick(TREATS).some;
  const shelter = r.pick(["under a big tree", "in an empty barn", "in a small cave", "in a little hut"]);
  const fun = r.pick(["told each other stories", "sang songs about the rain", "counted the drops"]);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.name} and ${called(f)} wanted to have a picnic ${place.at}.`,
      `${h.name} carried a blanket, and ${f.name} carried a basket of ${treats}.`,
    ],
    [
      r.pick(["But then it began to rain.", "But suddenly there was thunder, and it poured."]),
      say(r, f, r.pick(["Oh no, our picnic!", "Everything will get wet!"])),
      `They picked up the basket and ran until they found a dry place ${shelter}.`,
      say(r, h, r.pick(["Let us have our picnic here!", "Rain is no reason to be sad."])),
    ],
    [
      `They ate the ${treats} and ${fun}.`,
      `Then the rain stopped, and a rainbow stood over the hills.`,
      say(r, f, r.pick(["That was the best picnic ever!", "I am glad that it rained."])),
      ending(r, h, f),
    ],
  ];
}

/** Something built together holds, after it did not hold alone. @type {Plot} */
export function building(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const { what, at, fails, trick } = r.pick(BUILT);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.name} wanted to build a ${what} ${at}.`,
      say(r, `${h.his} friend ${f.name}`, r.pick(["Can I help you?", "Shall I help?"])),
      say(r, h, r.pick(["No, I can do it alone.", "No, I do not need any help."])),
      `So ${f.name} sat down and watched.`,
    ],
    [
      `All day ${h.name} worked on the ${what}, but ${fails}.`,
      `${h.name} started again, but ${fails} once more.`,
      say(r, h, r.pick(["Maybe I do need help.", "Two heads are better than one, I think."])),
    ],
    [
      `Now ${f.name} was glad to help. Together they ${trick}.`,
      r.pick([`This time the ${what} held!`, `It was the best ${what} far and wide.`]),
      say(r, h, r.pick(THANKS)),
      say(r, f, r.pick(["It was your idea. I only helped.", "Next time we start together!"])),
      ending(r, h, f),
    ],
  ];
}

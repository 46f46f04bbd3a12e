// @ts-check
// Stories of two: they share, race, and make a present.
import { called, ending, opening, SAD } from "../beats.mjs";
import { cap, say } from "../english.mjs";
import { elder, friendOf, hero } from "../people.mjs";
import { GIFTS, TREATS } from "../words.mjs";

/** @typedef {import("../beats.mjs").Plot} Plot */

/** One treat, two who want it. @type {Plot} */
export function sharing(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const old = elder(r, h);
  const treat = r.pick(TREATS);
  return [
    [
      opening(r, h),
      `One day ${h.his} ${old.noun} made ${treat.some} that smelled ${r.pick(["wonderful", "so good"])}.`,
      `${h.name} and ${h.his} friend ${f.name} ate and ate, until there was only one ${treat.one} left.`,
    ],
    [
      say(r, h, r.pick(["That one is mine!", `I want the last ${treat.one}!`])),
      say(r, f, r.pick(["No, it is mine!", "You had more than I did!"])),
      `They pulled and pushed, and the ${treat.one} fell on the floor.`,
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick(["Is it big enough for two?", "I see two sad faces and one small treat."]),
      ),
    ],
    [
      `Now ${h.name} looked at ${f.name} and felt ashamed.`,
      say(r, h, r.pick(["You can have it.", "I am sorry. Let us share it."])),
      `So they cut the ${treat.one} in two, and it tasted better than all the others.`,
      say(r, f, r.pick(["Sharing makes it sweeter.", "I am sorry, too."])),
      ending(r, h, f),
    ],
  ];
}

/** A race in which the one who stops to help wins something better. @type {Plot} */
export function race(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const [start, end] = r.pick([
    ["from the old mill", "to the big stone"],
    ["from the well", "to the church tower"],
    ["around the pond", "and back to the bridge"],
    ["through the meadow", "to the garden gate"],
  ]);
  const [fall, rescue] = r.pick([
    ["tripped over a root", `helped ${f.him} to stand up`],
    ["fell into a muddy ditch", `pulled ${f.him} out`],
    ["got caught in a thorn bush", `brushed the thorns off ${f.him}`],
  ]);
  return [
    [
      opening(r, h),
      `${h.name} wanted to win the great race more than anything.`,
      `It went ${start} ${end}. The prize was ${r.pick(["a golden cup", "a blue ribbon", "a bag of sweets"])}.`,
      say(r, called(f), r.pick(["Nobody can beat me!", "You will only see my back!"])),
    ],
    [
      "One, two, three, go!",
      `${f.name} was in front, but then ${f.name} ${fall}.`,
      `Now ${h.name} could win! But ${h.name} heard ${f.name} cry and turned back.`,
      say(r, h, r.pick(["Are you hurt?", "Hold on to me!"])),
      `So ${h.name} ${rescue}.`,
    ],
    [
      `Side by side ${h.name} and ${f.name} walked to the end.`,
      say(r, f, r.pick(["Why did you stop for me?", "I was proud, and you were kind."])),
      say(r, h, r.pick(["A friend is better than a prize.", "It is more fun to arrive together."])),
      ending(r, h, f),
    ],
  ];
}

/** A present that cannot be bought is made. @type {Plot} */
export function gift(r) {
  const h = hero(r);
  const old = elder(r, h);
  const f = friendOf(r, h);
  const it = r.pick(GIFTS);
  return [
    [
      opening(r, h),
      `Tomorrow was the birthday of ${h.his} ${old.noun}, and ${h.name} had no present.`,
      `${h.name} had only ${r.pick(["two coins", "three pennies"])} and ${r.pick(SAD)}.`,
    ],
    [
      `Then ${h.name} met ${called(f)} on the way home.`,
      say(r, h, r.pick(["I have nothing to give.", "Everything costs too much."])),
      say(r, f, r.pick(["The best presents cost nothing.", "Why do you not make something?"])),
      `So ${h.name} ${it.made}, and ${f.name} helped a little.`,
    ],
    [
      `The next day ${h.name} gave the ${it.thing} to ${h.his} ${old.noun}.`,
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick([`Did you make this ${it.thing} for me?`, `This is the best ${it.thing} in the world!`]),
      ),
      `${cap(h.his)} ${old.noun} hugged ${h.name} and kept the ${it.thing} for ever.`,
      ending(r, h),
    ],
  ];
}

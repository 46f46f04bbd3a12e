// @ts-check
// Stories of things and animals that get lost, and of how they are found.
import { called, ending, GLAD, maybe, met, opening, SAD, scenery, THANKS } from "../beats.mjs";
import { a, cap, say } from "../english.mjs";
import { elder, friendOf, helper, hero } from "../people.mjs";
import { FLYERS, FOUNDLINGS, HIGH_PLACES, MORNINGS, PLACES, TREASURES } from "../words.mjs";

/** @typedef {import("../beats.mjs").Plot} Plot */

/** A treasure is lost, looked for in three spots, and found. @type {Plot} */
export function lostTreasure(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const place = r.pick(PLACES);
  const thing = r.pick(TREASURES);
  const from = elder(r, h);
  const [first, second, third] = r.sample(place.spots, 3);
  const finder = r.chance(0.5) ? f : h;
  return [
    [
      opening(r, h),
      r.pick([
        `${cap(h.he)} had ${a(thing)} that ${h.his} ${from.noun} had given ${h.him}, and ${h.he} took it everywhere.`,
        `More than anything, ${h.he} loved ${h.his} ${thing}.`,
        `${cap(h.his)} best treasure was ${a(thing)}.`,
      ]),
      r.pick([
        `${r.pick(MORNINGS)} ${h.name} went ${place.to} to play.`,
        `${r.pick(MORNINGS)} ${h.name} played ${place.at} until it was time for lunch.`,
      ]),
      scenery(r, h),
      r.pick([
        `When ${h.he} looked for the ${thing}, it was gone!`,
        `But when ${h.he} wanted to go home, the ${thing} was not there.`,
        `Suddenly ${h.he} saw that the ${thing} was missing.`,
      ]),
    ],
    [
      `${h.name} ${r.pick(SAD)}.`,
      r.pick([`Just then ${met(f)} came by.`, `${cap(met(f))} heard ${h.him} and came closer.`]),
      say(r, f, r.pick(["What is wrong?", "Why are you so sad?", "Can I help you?"])),
      say(r, h, r.pick([`I lost my ${thing}.`, `My ${thing} is gone, and I cannot find it.`])),
      say(
        r,
        f,
        r.pick([
          "Do not worry. We will look for it together.",
          "Two can find more than one!",
          "Let us look for it right away.",
        ]),
      ),
    ],
    [
      r.pick([
        `They looked ${first}, but it was not there.`,
        `First they looked ${first}, and they found only ${r.pick(["a snail", "an old shoe", "a brown nut", "two ants"])}.`,
      ]),
      `They looked ${second}, but there was nothing.`,
      `Then ${finder.name} looked ${third}, and there it was!`,
      r.pick([
        `${h.name} ${r.pick(GLAD)} and held the ${thing} tight.`,
        say(r, h, r.pick(THANKS)),
        `"I will take better care of it," said ${h.name}.`,
      ]),
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
  const ability = r.pick(["flies", "flies", "climbs"]);
  const f = helper(r, ability, h);
  const verb = ability === "flies" ? "flew" : "climbed";
  return [
    [
      opening(r, h),
      r.pick([
        `${r.pick(MORNINGS)} ${h.name} took ${h.his} ${thing} ${place.to}.`,
        `${r.pick(MORNINGS)} ${h.name} played ${place.at} with ${h.his} ${thing}.`,
      ]),
      scenery(r, h),
      r.pick([
        `A strong wind came and carried the ${thing} away.`,
        `All at once the wind took the ${thing} and blew it high into the air.`,
        `Whoosh! The wind pulled the ${thing} out of ${h.his} ${h.isChild ? "hands" : "paws"}.`,
      ]),
      `It got stuck ${high.at}.`,
    ],
    [
      r.pick([
        `${h.name} jumped and jumped, but the ${high.of} was too high.`,
        `${h.name} threw a stick at it, but the stick fell down again.`,
        `${h.name} tried to climb up, but ${h.he} slid back to the ground.`,
      ]),
      maybe(r, `${cap(h.he)} ${r.pick(SAD)}.`),
      `${cap(met(f))} saw it all.`,
      say(r, f, r.pick(["Why do you look so sad?", "What happened?", "Is that yours?"])),
      say(r, h, `My ${thing} is ${high.at}, and I cannot reach it.`),
      say(
        r,
        f,
        r.pick([
          "That is easy for me!",
          "Wait here. I can get it.",
          "I like to be up high. Let me help you!",
        ]),
      ),
    ],
    [
      `${f.name} ${verb} up, took the ${thing} and brought it down ${high.from}.`,
      say(r, h, r.pick(THANKS)),
      r.pick([
        `${h.name} let ${f.name} play with the ${thing} for the rest of the day.`,
        `Then ${h.name} shared ${h.his} lunch with ${f.name}.`,
        `${h.name} tied a long string to the ${thing}, so that the wind could not take it again.`,
      ]),
      ending(r, h, f),
    ],
  ];
}

/** Somebody goes too far, is lost, and is shown the way home. @type {Plot} */
export function lostWay(r) {
  const h = hero(r);
  const f = helper(r, r.pick(["flies", "swims", "digs"]), h);
  const home = elder(r, h);
  const [lure, after] = r.pick([
    ["a blue butterfly", "followed it"],
    ["a trail of red berries", "followed it"],
    ["a strange light", "walked toward it"],
    ["a white feather in the wind", "ran after it"],
    ["a small frog", "hopped after it"],
  ]);
  const [guide, way] = r.pick([
    ["the stream", "The stream always flows past your door"],
    ["the north star", "The bright star stands right above your home"],
    ["the smell of soup", "I can smell your supper from here"],
    ["the row of white stones", "These white stones lead out of the forest"],
  ]);
  return [
    [
      opening(r, h),
      say(
        r,
        `${h.his} ${home.noun}`,
        r.pick(["Do not go too far.", "Stay where you can see our home.", "Be back before dark."]),
      ),
      r.pick([
        `But soon ${h.name} saw ${lure} and ${after}, deeper and deeper into the forest.`,
        `But then ${h.name} saw ${lure}. ${cap(h.he)} ${after} and forgot the time.`,
      ]),
    ],
    [
      r.pick([
        "Soon the trees were tall and dark, and every path looked the same.",
        "When the sun went down, nothing looked the way it had before.",
        "After a while there was no path at all.",
      ]),
      say(r, h, r.pick(["Where am I?", "I want to go home!", "Oh no, I am lost!"])),
      `${cap(h.he)} ${r.pick(SAD)}.`,
      r.pick([
        `Then something moved in the grass. It was ${met(f)}.`,
        `${cap(met(f))} came out of the dark.`,
      ]),
      say(
        r,
        f,
        r.pick(["Do not be afraid. I know the way.", "Are you lost?", "You are far from home, little one."]),
      ),
      `"Come with me," ${f.he} said. "${way}."`,
    ],
    [
      `They followed ${guide} together, and ${f.name} ${r.pick(["told funny stories", "asked riddles", "explained the stars", "sang an old song"])} on the way.`,
      r.pick([
        `At last ${h.name} saw a light. ${cap(h.his)} ${home.noun} stood at the door and ran to meet ${h.him}.`,
        `At last they came to a place that ${h.name} knew, and there was ${h.his} ${home.noun}!`,
      ]),
      say(
        r,
        h,
        r.pick([
          "I am sorry that I went so far.",
          "I will never run away again.",
          "I was so scared, but my new friend helped me.",
        ]),
      ),
      r.pick([
        `${cap(h.his)} ${home.noun} gave ${f.name} a bowl of warm soup.`,
        `${cap(h.his)} ${home.noun} thanked ${f.name} again and again.`,
      ]),
      ending(r, h, f),
    ],
  ];
}

/** A small animal in trouble is brought back to where it belongs. @type {Plot} */
export function foundling(r) {
  const h = hero(r);
  const small = r.pick(
    FOUNDLINGS.filter(({ young, family }) => !young.includes(h.noun) && !family.includes(h.noun)),
  );
  const f = friendOf(r, h);
  const place = r.pick(PLACES.filter(({ name }) => name !== "market" && name !== "beach"));
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.name} and ${h.his} friend ${f.name} walked ${place.to}.`,
      r.pick([
        "They heard a tiny cry.",
        "Something made a soft sound.",
        "Suddenly they stopped and listened.",
      ]),
      `${cap(a(small.young))} ${small.trouble}.`,
    ],
    [
      say(
        r,
        h,
        r.pick(["Oh, you poor little thing!", "Look, it needs our help!", "We cannot leave it here."]),
      ),
      say(r, f, r.pick([`It belongs in the ${small.home}.`, "What can we do?", "It must miss its family."])),
      r.pick([
        `${h.name} spoke in a quiet voice so that it would not be afraid.`,
        `${f.name} gave it a drop of water, and ${h.name} stroked its head.`,
        `${h.name} and ${f.name} sat down beside it and thought.`,
      ]),
      `Then they ${small.way}.`,
    ],
    [
      r.pick([
        `The ${small.family} had looked for it everywhere.`,
        `The ${small.family} had waited all day long.`,
      ]),
      `The ${small.young} ${small.sound} as if to say thank you.`,
      say(r, f, r.pick(["Now it is home again.", "We did a good thing today.", "I am proud of us!"])),
      r.pick([
        `After that, the ${small.young} came to visit ${h.name} every ${r.pick(["spring", "week", "morning"])}.`,
        `${h.name} ${r.pick(GLAD)}.`,
      ]),
      ending(r, h, f),
    ],
  ];
}

/** Something small is heard calling, and the sound leads to several wrong things first. @type {Plot} */
export function hideAndSeek(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const place = r.pick(PLACES);
  const [first, second, third] = r.sample(place.spots, 3);
  const [wrong, other] = r.sample(
    [
      "a green frog",
      "an old boot",
      "a round stone",
      "a sleepy snail",
      "a family of beetles",
      "a pile of nuts",
    ],
    2,
  );
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} ${h.name} and ${called(f)} played hide and seek ${place.at}.`,
      scenery(r, h),
      `${h.name} closed both eyes and counted to ${r.pick(["ten", "twenty", "fifty"])}.`,
      say(r, h, r.pick(["Ready or not, here I come!", "I will find you!", "Now I am coming!"])),
    ],
    [
      `${cap(h.he)} looked ${first}, but ${h.he} found only ${wrong}.`,
      `${cap(h.he)} looked ${second}, but there was just ${other}.`,
      r.pick([
        `${h.name} looked and looked, and ${h.he} began to worry.`,
        `The sun went lower, and ${h.name} was tired.`,
      ]),
      say(r, h, r.pick([`Where are you, ${f.name}?`, `${f.name}, please come out!`])),
      r.pick([
        "Nobody answered.",
        "It was quiet, but then there was a tiny snore.",
        "Then something sneezed.",
      ]),
    ],
    [
      `${h.name} went closer and looked ${third}. There was ${f.name}, ${r.pick(["fast asleep", "covered with leaves", "with a big grin"])}!`,
      say(r, f, r.pick(["You found me!", "I waited for you so long!", "I had the best dream!"])),
      r.pick([
        `Then it was ${h.name}'s turn to hide.`,
        `They laughed so hard that the birds flew away.`,
        `${h.name} ${r.pick(GLAD)}.`,
      ]),
      ending(r, h, f),
    ],
  ];
}

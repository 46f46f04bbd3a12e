// @ts-check
// Stories of two: they quarrel, share, meet, race, and give.
import { called, ending, GLAD, maybe, met, opening, SAD, scenery, THANKS } from "../beats.mjs";
import { a, cap, say } from "../english.mjs";
import { elder, friendOf, helper, hero } from "../people.mjs";
import { BERRIES, GIFTS, MORNINGS, PLACES, TREATS } from "../words.mjs";

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
      `${cap(h.his)} ${old.noun} ${treat.grows ? "had brought home" : "had made"} ${treat.some} that smelled ${r.pick(["wonderful", "so good", "like a holiday"])}.`,
      `${h.name} and ${h.his} friend ${f.name} ate and ate, until there was only one ${treat.one} left.`,
    ],
    [
      say(r, h, r.pick(["That one is mine!", "I saw it first!", `I want the last ${treat.one}!`])),
      say(r, f, r.pick(["No, it is mine!", "You had more than I did!", "I am the guest, so it is for me!"])),
      r.pick([
        `They pulled and pushed, and the ${treat.one} fell on the floor.`,
        `They both grabbed it at the same time, and neither let go.`,
        `They shouted so loudly that the cups shook.`,
      ]),
      `${cap(h.his)} ${old.noun} came in and looked at them.`,
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick([
          "What is worth more, a friend or a bite?",
          "Is it big enough for two?",
          "I see two sad faces and one small treat.",
        ]),
      ),
    ],
    [
      r.pick([
        `${h.name} looked at ${f.name} and felt ashamed.`,
        `${h.name} was quiet, for it was true.`,
        `All at once ${h.name} was not angry any more.`,
      ]),
      say(
        r,
        h,
        r.pick([
          "You can have it.",
          "I am sorry. Let us share it.",
          "You take one half, and I take the other.",
        ]),
      ),
      r.pick([
        `So they cut the ${treat.one} in two, and it tasted better than all the others.`,
        `They broke it in the middle, and each gave the other the bigger half.`,
      ]),
      say(
        r,
        f,
        r.pick(["Sharing makes it sweeter.", "Next time we will count them first.", "I am sorry, too."]),
      ),
      ending(r, h, f),
    ],
  ];
}

/** Somebody new and shy is invited to play. @type {Plot} */
export function newcomer(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const place = r.pick(PLACES);
  const [game, talent, help] = r.pick([
    ["built a castle of stones", "make strong walls", "showed them how to build a bridge, too"],
    ["played a guessing game", "think of clever questions", "won three times in a row"],
    ["flew kites", "tie the best knots", "mended the kite that was torn"],
    ["sang songs", "sing very well", "knew a song that nobody had heard before"],
    ["looked for shells and stones", "see small things", "found a stone with a star in it"],
    ["told stories", "tell stories", "told one about a whale that had the hiccups"],
  ]);
  return [
    [
      opening(r, h),
      `${r.pick(MORNINGS)} somebody new came to live nearby. It was ${met({ ...f, trait: r.pick(["shy", "quiet", "lonely"]) })}.`,
      r.pick([
        `${f.name} stood alone ${place.at} and watched the others play.`,
        `${f.name} sat ${place.at} and did not say a word.`,
      ]),
    ],
    [
      r.pick([
        `"Leave ${f.him} alone," said the others. "${cap(f.he)} is strange."`,
        `The others whispered and turned away.`,
        `Nobody asked ${f.him} to come and play.`,
      ]),
      `But ${h.name} ${r.pick(["remembered how it felt to be alone", "saw how sad those eyes were", "was curious and felt sorry, too"])}.`,
      `${cap(h.he)} walked over and sat down beside ${f.him}.`,
      say(
        r,
        h,
        r.pick([
          `Hello, I am ${h.name}. Do you want to play?`,
          "We need one more. Will you come?",
          `My name is ${h.name}. What is yours?`,
        ]),
      ),
      r.pick([
        say(r, f, r.pick(["Me? Do you mean me?", "I would love to."]), "whispered"),
        `${f.name} looked up and smiled for the first time.`,
      ]),
    ],
    [
      `They ${game}, and it turned out that ${f.name} could ${talent}.`,
      `${cap(f.he)} ${help}.`,
      r.pick([`Soon all the others came to join them.`, `"Can we play, too?" asked the others.`]),
      say(r, f, r.pick(["Thank you for asking me.", "This was my best day here."])),
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
    ["up the hill", "to the tall pine tree"],
    ["through the meadow", "to the garden gate"],
  ]);
  const [fall, need] = r.pick([
    [`tripped over a root and hurt ${f.his} foot`, "helped"],
    ["fell into a muddy ditch", "pulled"],
    ["got caught in a thorn bush", "freed"],
    ["slipped on the wet leaves and could not get up", "helped"],
  ]);
  return [
    [
      opening(r, h),
      r.pick([
        `${cap(h.he)} wanted to win the great race more than anything.`,
        `Every year there was a race, and ${h.name} had never won it.`,
      ]),
      `It went ${start} ${end}. The prize was ${r.pick(["a golden cup", "a basket of honey", "a blue ribbon", "a bag of sweets"])}.`,
      say(
        r,
        called(f),
        r.pick(["Nobody can beat me!", "You will only see my back!", "I could win this race in my sleep!"]),
      ),
    ],
    [
      r.pick([
        "One, two, three, go!",
        "A bell rang, and off they went!",
        "The race began, and dust flew up.",
      ]),
      `${f.name} was in front, but then ${f.he} ${fall}.`,
      r.pick([
        `${h.name} could win now! ${cap(h.he)} looked at the road, and then ${h.he} stopped.`,
        `Now ${h.name} was in front. But ${h.he} heard ${f.name} cry, and ${h.he} turned back.`,
      ]),
      say(r, h, r.pick(["Come, lean on me.", "Are you hurt?", "Hold on to me!"])),
      need === "pulled"
        ? `${cap(h.he)} pulled ${f.him} out.`
        : `${cap(h.he)} ${need} ${f.him} ${need === "freed" ? "and brushed off the leaves" : "to stand up"}.`,
    ],
    [
      r.pick([
        `Side by side they walked to the end, long after all the others.`,
        `The two of them came in last, and they did not mind.`,
      ]),
      r.pick([
        `Everyone clapped, and the loudest cheer was for ${h.name}.`,
        `The judge gave the prize to the winner, and a flower to ${h.name}.`,
      ]),
      say(
        r,
        f,
        r.pick(["You lost because of me. Why did you stop?", "I was proud, and you were kind. I am sorry."]),
      ),
      say(
        r,
        h,
        r.pick([
          "A friend is better than a prize.",
          "There will be another race next year.",
          "It is more fun to arrive together.",
        ]),
      ),
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
  const wanted = r.pick(["a silver ring", "a warm coat", "a new clock", "a silk scarf", "a china cup"]);
  return [
    [
      opening(r, h),
      `Tomorrow was the birthday of ${h.his} ${old.noun}, and ${h.name} had no present.`,
      `In a shop ${h.he} saw ${wanted}, but ${h.he} had only ${r.pick(["two coins", "one coin", "a button and a penny", "three pennies"])}.`,
      `${cap(h.he)} ${r.pick(SAD)}.`,
    ],
    [
      `${cap(called(f))} met ${h.him} on the way home.`,
      say(r, h, r.pick(["I have nothing to give.", "Everything costs too much."])),
      say(
        r,
        f,
        r.pick([
          "What you make yourself is worth more.",
          "The best presents cost nothing.",
          "Why do you not make something?",
        ]),
      ),
      `So ${h.name} ${it.made}.`,
      maybe(
        r,
        r.pick([
          `It took the whole evening, but ${h.he} did not stop until it was done.`,
          `${f.name} helped a little, and they sang while they worked.`,
        ]),
      ),
    ],
    [
      `The next day ${h.his} ${old.noun} opened both eyes wide.`,
      say(
        r,
        `${h.his} ${old.noun}`,
        r.pick([
          `Did you make this ${it.thing} for me?`,
          `This is the most beautiful ${it.thing} in the world!`,
          "You made it yourself!",
        ]),
      ),
      `${h.name} nodded and ${r.pick(["beamed", "glowed"])} with joy.`,
      `${cap(h.his)} ${old.noun} hugged ${h.him} and kept the ${it.thing} for ever.`,
      ending(r, h),
    ],
  ];
}

/** Somebody eats or takes too much and is sorry. @type {Plot} */
export function greedy(r) {
  const h = hero(r);
  const f = friendOf(r, h);
  const { some: berries, on: bush } = r.pick(BERRIES);
  const healer = helper(r, "flies", h);
  return [
    [
      opening(r, h),
      scenery(r, h),
      `${r.pick(MORNINGS)} ${h.he} found ${bush} full of ${berries}.`,
      `${cap(called(f))} came by with an empty basket.`,
      say(r, f, r.pick(["May I have some, too?", "They look so sweet! Can we share them?"])),
      say(
        r,
        h,
        r.pick([
          "No, they are all mine!",
          "I found them, so I will eat them all.",
          "There are not enough for two.",
        ]),
      ),
    ],
    [
      r.pick([`${f.name} went away with ${f.his} head down.`, `${f.name} said nothing and left.`]),
      `${h.name} ate and ate, until the last of the ${berries} was gone.`,
      r.pick([
        `Then ${h.his} stomach began to hurt. "Ow, ow, ow!" ${h.he} cried.`,
        `Then ${h.he} felt sick and could not move.`,
      ]),
      r.pick([
        `"I wish that I had shared," said ${h.name}.`,
        `${cap(h.he)} lay in the grass and felt sorry.`,
      ]),
    ],
    [
      r.pick([
        `Who came back? It was ${f.name}, with a cup of mint tea.`,
        `${cap(a(healer.noun))} told ${f.name}, and ${f.he} came at once with a cup of mint tea.`,
      ]),
      say(r, h, r.pick(["Why are you so kind to me?", "You help me, after I was so mean?"])),
      say(
        r,
        f,
        r.pick([
          "Because you are my friend.",
          "Everybody makes mistakes.",
          "You would do the same for me next time.",
        ]),
      ),
      `The next day ${h.name} picked a whole basket of ${r.pick(["nuts", "apples", "mushrooms", "pears"])} and gave the best ones to ${f.name}.`,
      r.chance(0.3) ? `${f.name} ${r.pick(GLAD)}. ${say(r, f, r.pick(THANKS))}` : ending(r, h, f),
    ],
  ];
}

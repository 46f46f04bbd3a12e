// @ts-check
// The words of the stories' world: where, with what, what can go wrong. Facts that plots rely on stand beside the words.

/** @typedef {import("./people.mjs").Ability} Ability */

/** Places to go to. `at` is where one is, `to` where one goes. */
export const PLACES = [
  {
    name: "forest",
    at: "in the forest",
    to: "into the forest",
    spots: ["under a log", "behind a tall tree", "in the ferns", "under a pile of leaves"],
  },
  {
    name: "meadow",
    at: "in the meadow",
    to: "to the meadow",
    spots: ["in the long grass", "under the clover", "beside a rock", "among the flowers"],
  },
  {
    name: "park",
    at: "in the park",
    to: "to the park",
    spots: ["under a bench", "behind the fountain", "near the swings", "in the bushes"],
  },
  {
    name: "garden",
    at: "in the garden",
    to: "into the garden",
    spots: ["under the roses", "behind the shed", "among the cabbages", "beside the old wall"],
  },
  {
    name: "beach",
    at: "on the beach",
    to: "to the beach",
    spots: ["under a boat", "behind a dune", "between two rocks", "in the sand"],
  },
  {
    name: "hill",
    at: "on the hill",
    to: "up the hill",
    spots: ["behind a stone", "in the heather", "under a bush", "in a small hollow"],
  },
  {
    name: "river",
    at: "by the river",
    to: "to the river",
    spots: ["under the bridge", "among the reeds", "behind a willow", "between the stones"],
  },
  {
    name: "lake",
    at: "by the lake",
    to: "to the lake",
    spots: ["under the pier", "in the reeds", "behind the boat house", "beside a stump"],
  },
  {
    name: "field",
    at: "in the field",
    to: "to the field",
    spots: ["in the tall corn", "behind a haystack", "beside the fence", "in a ditch"],
  },
];

/** Things that somebody loves and can lose. */
export const TREASURES = [
  "red scarf",
  "toy boat",
  "silver key",
  "wooden horse",
  "green marble",
  "tiny bell",
  "paper lantern",
  "golden button",
  "shiny coin",
  "little drum",
  "white feather",
  "picture book",
];

/** Things that fly away and get stuck high up. */
export const FLYERS = ["red balloon", "paper plane", "yellow kite", "straw hat", "blue ball"];

export const HIGH_PLACES = [
  { of: "tree", at: "in a tall tree", from: "from the tree" },
  { of: "roof", at: "on the roof of the barn", from: "from the roof" },
  { of: "tower", at: "on top of the old tower", from: "from the tower" },
  { of: "wall", at: "on a high wall", from: "from the wall" },
];

/** Food for one; `some` for more of it. */
export const TREATS = [
  { one: "cookie", some: "cookies" },
  { one: "muffin", some: "muffins" },
  { one: "pancake", some: "pancakes" },
  { one: "bun", some: "buns" },
  { one: "waffle", some: "waffles" },
];

/** What grows from a seed. */
export const PLANTS = [
  { seed: "sunflower seed", plant: "sunflower", grown: "a sunflower as tall as the door" },
  { seed: "pumpkin seed", plant: "pumpkin", grown: "a pumpkin as round as the moon" },
  { seed: "bean", plant: "bean plant", grown: "a bean plant as high as the window" },
  { seed: "acorn", plant: "oak", grown: "a tiny oak with four green leaves" },
  { seed: "tulip bulb", plant: "tulip", grown: "a tulip as red as a cherry" },
  { seed: "melon seed", plant: "melon", grown: "a melon that was sweet and cold inside" },
];

/**
 * Skills: what one wants to do, what goes wrong, the advice, how it looks when it works; `ability`: who can do it anyway.
 * @type {readonly { to: string, ability?: Ability, wrong: string, tip: string, right: string, at: string }[]} */
export const SKILLS = [
  {
    to: "swim",
    ability: "swims",
    wrong: "sank like a stone",
    tip: "Breathe slowly and kick with both legs",
    right: "swam all the way to the other side",
    at: "lake",
  },
  {
    to: "skip a stone",
    wrong: "only made a big splash",
    tip: "Take a flat stone and bend your knees",
    right: "made a stone skip seven times across the water",
    at: "lake",
  },
  {
    to: "dance",
    wrong: "stepped on everyone's feet",
    tip: "Listen to the drum and count to four",
    right: "danced until the stars came out",
    at: "park",
  },
  {
    to: "climb the old oak",
    ability: "climbs",
    wrong: "slipped down after one branch",
    tip: "Hold on with both hands and do not look down",
    right: "climbed to the very top",
    at: "forest",
  },
  {
    to: "play the flute",
    wrong: "made a sound like a sick goose",
    tip: "Play one note at a time and take a deep breath",
    right: "played a whole song by heart",
    at: "meadow",
  },
  {
    to: "paint",
    wrong: "spilled paint all over the floor",
    tip: "Look closely first, and use only a little paint",
    right: "painted a picture of the harbor",
    at: "garden",
  },
  {
    to: "jump over the fence",
    wrong: "landed in the mud",
    tip: "Take a long run and jump from both feet",
    right: "flew over the fence like a bird",
    at: "field",
  },
  {
    to: "row a boat",
    wrong: "went around and around in circles",
    tip: "Pull both oars at the same time",
    right: "rowed straight across the water",
    at: "river",
  },
];

/** Strange noises and what makes them. */
export const NOISES = [
  {
    sound: "tap, tap, tap",
    cause: "a branch that knocked on the window in the wind",
    where: "at the window",
  },
  { sound: "hoo, hoo", cause: "an owl that sang to the moon", where: "outside" },
  { sound: "scratch, scratch", cause: "a hungry mouse that looked for crumbs", where: "behind the wall" },
  { sound: "drip, drop, drip", cause: "rain that fell through a hole into a bucket", where: "on the stairs" },
  { sound: "creak, creak", cause: "the old gate that swung in the wind", where: "in the yard" },
  { sound: "thump, thump", cause: "a rabbit that danced on the roof of the shed", where: "above" },
  { sound: "squeak, squeak", cause: "a wheel on the wagon that needed oil", where: "in the barn" },
];

/** Small animals that may need help. `young` is what they are called, `place` where they belong. */
export const FOUNDLINGS = [
  {
    young: "baby bird",
    trouble: "had fallen out of its nest",
    home: "nest",
    family: "mother bird",
    way: "climbed up a ladder and put it back",
    sound: "chirped",
  },
  {
    young: "duckling",
    trouble: "could not find the pond",
    home: "pond",
    family: "mother duck",
    way: "carried it down to the water",
    sound: "quacked",
  },
  {
    young: "kitten",
    trouble: "was stuck in a muddy ditch",
    home: "barn of the big farm",
    family: "mother cat",
    way: "washed it and took it back to the farm",
    sound: "purred",
  },
  {
    young: "baby rabbit",
    trouble: "had a thorn in its paw",
    home: "burrow",
    family: "mother rabbit",
    way: "pulled out the thorn and showed it the way",
    sound: "wiggled its nose",
  },
  {
    young: "small turtle",
    trouble: "lay on its back and could not get up",
    home: "warm sand by the sea",
    family: "other turtles",
    way: "turned it over and walked beside it to the water",
    sound: "waved a foot",
  },
  {
    young: "lamb",
    trouble: "was caught in the fence",
    home: "field",
    family: "other sheep",
    way: "opened the wire and led it across the field",
    sound: "said baa",
  },
  {
    young: "puppy",
    trouble: "shivered alone in the cold rain",
    home: "house at the end of the road",
    family: "old farmer",
    way: "dried it and knocked on every door",
    sound: "barked",
  },
];

/** Places far away that are worth a walk. */
export const FAR = [
  { goal: "the sea", see: "The water shone like silver, and the waves sang on the sand" },
  { goal: "the top of the mountain", see: "The whole valley lay below like a green blanket" },
  { goal: "the end of the rainbow", see: "There was no gold, only a field full of flowers in seven colors" },
  { goal: "the old castle", see: "Roses grew on its walls, and a hundred swallows flew in and out" },
  { goal: "the great waterfall", see: "The water roared and made a small rainbow in the air" },
  { goal: "the lighthouse", see: "From its window one could see ships as small as toys" },
  { goal: "the island in the lake", see: "It was full of white birds and wild strawberries" },
];

/** What stops walkers, and who can help how. @type {readonly { is: string, by: Ability, helped: string }[]} */
export const BARRIERS = [
  {
    is: "a wide river without a bridge",
    by: "swims",
    helped: "knew a row of flat stones just under the water",
  },
  { is: "a thick fog", by: "flies", helped: "flew ahead and called all the time" },
  { is: "a wall of thorns", by: "digs", helped: "dug a tunnel under the thorns" },
  { is: "a steep cliff", by: "climbs", helped: "let down a rope of vines" },
  {
    is: "a big stone in the middle of the path",
    by: "strong",
    helped: "pushed the stone aside with one shoulder",
  },
  { is: "a deep, dark swamp", by: "flies", helped: "found a dry way from above" },
];

/** Things that are built where they can break, and what makes them hold. */
export const BUILT = [
  { what: "raft", at: "by the river", fails: "it fell apart", trick: "tied the logs with strong rope" },
  { what: "sand castle", at: "on the beach", fails: "a wave took it", trick: "dug a ditch around it" },
  {
    what: "tree house",
    at: "in the forest",
    fails: "the floor broke",
    trick: "put two thick beams under the floor",
  },
  {
    what: "hut",
    at: "on the hill",
    fails: "the roof came down",
    trick: "tied the branches together at the top",
  },
  { what: "bridge", at: "over the stream", fails: "it sank", trick: "put a flat stone under it" },
  { what: "swing", at: "in the garden", fails: "the rope broke", trick: "twisted three ropes into one" },
];

export const GIFTS = [
  { thing: "card", made: "folded some paper and drew a garden on it" },
  { thing: "necklace", made: "put shells on a string, one by one" },
  { thing: "crown", made: "wove daisies into a ring" },
  { thing: "bird house", made: "nailed six boards together and painted them green" },
  { thing: "candle", made: "melted old wax and poured it into a shell" },
  { thing: "boat", made: "carved a small boat out of bark" },
];

export const MORNINGS = ["One morning", "One day", "One sunny day", "One windy day", "On a warm day"];

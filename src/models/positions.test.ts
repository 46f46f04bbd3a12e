// How many tokens a sequence may have: what config.json, scaling and windows make of it.
import { expect, test } from "vitest";
import { SYNTHETIC_FAMILIES } from "../formats/synthetic/families.ts";
import { modelSpec } from "./families.ts";

const MOST = 2 ** 31 - 1;
const linear = { type: "linear", factor: 4 };
const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
const longrope = { type: "longrope", short_factor: Array(8).fill(1), long_factor: Array(8).fill(2) };
const windows = { use_sliding_window: true, sliding_window: 32, layer_types: undefined };

test.each<["llama" | "qwen2" | "gpt2", string, object, number, number, RegExp | undefined]>([
  ["llama", "the config's number; more may be asked for", {}, 256, MOST, undefined],
  [
    "llama",
    "scaled: the factor makes it that many times more",
    { rope_scaling: linear },
    1024,
    MOST,
    undefined,
  ],
  [
    "llama",
    "a factor below one takes nothing away",
    { rope_scaling: { ...linear, factor: 0.5 } },
    256,
    MOST,
    undefined,
  ],
  [
    "llama",
    "yarn counts from the original length",
    { rope_scaling: { type: "yarn", factor: 8, original_max_position_embeddings: 64 } },
    512,
    MOST,
    undefined,
  ],
  [
    "llama",
    "or keeps the config's number, where that is more",
    { rope_scaling: { ...llama3, original_max_position_embeddings: 16 } },
    256,
    MOST,
    undefined,
  ],
  ["llama", "never past 32 bits", { rope_scaling: { ...linear, factor: 1e30 } }, MOST, MOST, undefined],
  [
    "llama",
    "dynamic ends where frequencies begin to change",
    { rope_scaling: { type: "dynamic", factor: 4 } },
    256,
    256,
    /"dynamic" is computed up to the length before scaling/,
  ],
  [
    "llama",
    "longrope too",
    { rope_scaling: { ...longrope, original_max_position_embeddings: 64 } },
    64,
    64,
    /positions end at 64/,
  ],
  [
    "llama",
    "a window of a class without windows ends it",
    { sliding_window: 100 },
    100,
    100,
    /3 layers of 3 attend to the last 100 tokens/,
  ],
  [
    "llama",
    "unless the types of layers say otherwise",
    { sliding_window: 100, layer_types: Array(3).fill("full_attention") },
    256,
    MOST,
    undefined,
  ],
  ["llama", "so do chunks", { attention_chunk_size: 128 }, 128, 128, /128 tokens/],
  [
    "llama",
    "a window longer than all of it is seen by nobody, until more is asked for",
    { sliding_window: 4096 },
    256,
    4096,
    undefined,
  ],
  ["qwen2", "windows of no layer", { ...windows, max_window_layers: 3 }, 256, MOST, undefined],
  [
    "qwen2",
    "windows switched off",
    { ...windows, use_sliding_window: false, max_window_layers: 0 },
    256,
    MOST,
    undefined,
  ],
  [
    "qwen2",
    "windows of the upper layers",
    { ...windows, max_window_layers: 1 },
    32,
    32,
    /2 layers of 3 attend to the last 32/,
  ],
  [
    "qwen2",
    "windows by type",
    { ...windows, layer_types: ["full_attention", "attention", "sliding_attention"] },
    32,
    32,
    /1 layer of 3/,
  ],
  [
    "qwen2",
    "no window at all",
    { ...windows, sliding_window: null, max_window_layers: 0 },
    256,
    MOST,
    undefined,
  ],
  ["gpt2", "a table of positions has its rows", {}, 256, 256, undefined],
])("%s: %s", (family, _, change, usual, most, note) => {
  const spec = modelSpec({ ...SYNTHETIC_FAMILIES[family].config, ...change });
  expect([spec.max_positions, spec.positions.most]).toEqual([usual, most]);
  expect(spec.notes).toEqual(note ? [expect.stringMatching(note)] : []);
});

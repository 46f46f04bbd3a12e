// What config.json means by its rotary settings, as transformers 5.18 reads it (RotaryEmbeddingConfigMixin).
import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedError } from "../base/errors.ts";
import { RawConfig } from "./config.ts";
import { readRopeConfig } from "./rope-config.ts";

const read = (json: object) => readRopeConfig(new RawConfig(json, "config.json", "refused"), 256);
const YARN = { type: "yarn", factor: 4 };
const LLAMA3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };

test.each<[string, object, object]>([
  ["nothing at all", {}, { method: "default", theta: 10_000, original: 256 }],
  ["theta at the top", { rope_theta: 500 }, { method: "default", theta: 500 }],
  ["null for none", { rope_theta: 500, rope_scaling: null, rope_parameters: null }, { theta: 500 }],
  [
    "theta inside before the one at the top",
    { rope_theta: 7, rope_parameters: { rope_theta: 500 } },
    { theta: 500 },
  ],
  ["an object without a type", { rope_scaling: { factor: 2 } }, { method: "default" }],
  ["an empty rope_scaling is none", { rope_scaling: {}, rope_parameters: { ...YARN } }, { method: "yarn" }],
  [
    "rope_type before type",
    { rope_scaling: { rope_type: "linear", type: "yarn", factor: 2 } },
    { method: "linear" },
  ],
  [
    "rope_scaling before rope_parameters",
    { rope_scaling: { type: "linear", factor: 2 }, rope_parameters: { ...YARN } },
    { method: "linear" },
  ],
  [
    "... with nothing from the other",
    { rope_scaling: { ...YARN }, rope_parameters: { rope_theta: 500 } },
    { method: "yarn", theta: 10_000 },
  ],
  [
    "... but from the top",
    { rope_theta: 77, rope_scaling: { ...YARN }, rope_parameters: { rope_theta: 500 } },
    { theta: 77 },
  ],
  [
    "default in rope_scaling switches yarn off",
    { rope_scaling: { type: "default" }, rope_parameters: { ...YARN } },
    { method: "default" },
  ],
  [
    "yarn's original length inside",
    { rope_scaling: { ...YARN, original_max_position_embeddings: 64 } },
    { original: 64 },
  ],
  [
    "the one at the top before it",
    { original_max_position_embeddings: 16, rope_scaling: { ...YARN, original_max_position_embeddings: 64 } },
    { original: 16 },
  ],
  ["neither: the model's positions", { rope_scaling: { ...YARN } }, { original: 256 }],
  ["llama3's, at the top", { original_max_position_embeddings: 64, rope_scaling: LLAMA3 }, { original: 64 }],
  ["llama3's, nowhere", { rope_scaling: LLAMA3 }, { original: 256 }],
  [
    "linear has none",
    { original_max_position_embeddings: 64, rope_scaling: { type: "linear", factor: 2 } },
    { original: 256 },
  ],
])("%s", (_, json, expected) => {
  expect(read(json)).toMatchObject(expected);
});

test.each<[object, RegExp]>([
  [
    { rope_scaling: { type: "linear", factor: 2 }, rope_parameters: { ...YARN } },
    /rope_scaling counts, rope_parameters beside it is not used$/,
  ],
  [
    { rope_scaling: { ...YARN }, rope_parameters: { rope_theta: 500 } },
    /rope_theta 500 does not count either, 10000 does: write rope_theta into rope_scaling/,
  ],
  [
    { rope_theta: 7, rope_parameters: { rope_theta: 500 } },
    /rope_theta 7 is not used, config.json: rope_parameters has 500/,
  ],
  [
    { rope_scaling: { type: "linear", factor: 2, attention_factor: 3 } },
    /not used by rope type "linear": attention_factor/,
  ],
  [{ rope_scaling: { type: "default", factor: 2 } }, /not used by rope type "default": factor/],
  [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor 0.5 is not used/],
])("%j leaves a note", (json, note) => {
  expect(read(json).notes).toEqual([expect.stringMatching(note)]);
});

test.each<[object]>([
  [
    {
      rope_scaling: { ...YARN, rope_theta: 500 },
      rope_parameters: { rope_type: "default", rope_theta: 500 },
    },
  ],
  [{ rope_scaling: { ...YARN, finetuned: true, partial_rotary_factor: 1 } }],
  [{ rope_theta: 500, rope_parameters: { rope_type: "default", rope_theta: 500, mrope_section: [2, 2, 4] } }],
])("%j leaves none", (json) => {
  expect(read(json).notes).toEqual([]);
});

describe("what is refused", () => {
  test.each<[object, RegExp, typeof ConfigError | typeof UnsupportedError]>([
    [
      { rope_scaling: { type: "su" } },
      /rope_scaling: rope type "su" \(an older name of "longrope"\) is not supported; supported: default, linear/,
      UnsupportedError,
    ],
    [
      { rope_scaling: { type: "proportional" } },
      /rope type "proportional" is not supported/,
      UnsupportedError,
    ],
    [{ rope_scaling: { type: "Linear", factor: 2 } }, /rope type "Linear"/, UnsupportedError],
    [{ rope_scaling: { type: "toString" } }, /rope type "toString"/, UnsupportedError],
    [
      { rope_scaling: { type: "linear", factor: 2, warp: 1 } },
      /"warp" is not a key of rope type "linear"/,
      UnsupportedError,
    ],
    [
      { rope_parameters: { full_attention: { rope_type: "default" } } },
      /each type of layer \("full_attention"\)/,
      UnsupportedError,
    ],
    [
      { rope_scaling: { type: "linear", factor: 2 }, partial_rotary_factor: 0.5 },
      /partial_rotary_factor is 0.5 with rope type "linear"/,
      UnsupportedError,
    ],
    [{ rope_scaling: { rope_type: 3 } }, /rope_type is 3, expected a string/, ConfigError],
    [{ rope_scaling: { rope_type: null } }, /rope_type is null, expected a string/, ConfigError],
    [{ rope_scaling: "linear" }, /rope_scaling: expected an object/, ConfigError],
    [{ rope_scaling: [1] }, /rope_scaling: expected an object/, ConfigError],
    [{ rope_theta: null }, /rope_theta is null, expected a number/, ConfigError],
    [{ rope_theta: 0 }, /rope_theta is 0, expected a number above 0/, ConfigError],
    [{ rope_theta: 1e300 }, /out of the range of 32-bit floats/, ConfigError],
    [{ rope_parameters: { rope_theta: "10000" } }, /rope_theta is "10000"/, ConfigError],
    [
      { rope_scaling: { ...YARN, original_max_position_embeddings: null } },
      /original_max_position_embeddings is null/,
      ConfigError,
    ],
    [
      { rope_scaling: { ...YARN }, original_max_position_embeddings: null },
      /original_max_position_embeddings is null/,
      ConfigError,
    ],
  ])("%j", (json, message, type) => {
    expect(() => read(json)).toThrow(message);
    expect(() => read(json)).toThrow(type);
  });
});

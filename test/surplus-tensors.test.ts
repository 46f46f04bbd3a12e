// Checkpoints that hold more than the model has, or hold it under other names and types: what runs gives what the model
// alone gives, says what it passed over, and refuses what would take part in the arithmetic.
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, UnsupportedError } from "../src/base/errors.ts";
import { openCheckpoint, readTensor, type TensorSource, writeSafetensors } from "../src/formats/index.ts";
import { rejection } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { FIXTURES, largestDifference } from "./golden/golden.ts";
import { copyOfFixture } from "./support/checkpoints.ts";
import { addTensor, editConfig } from "./support/damage.ts";
import { leavesNothing } from "./support/leaks.ts";

type Held = Map<string, Omit<TensorSource, "name" | "data"> & { bytes: Uint8Array }>;
const IDS = Array.from({ length: 12 }, (_, i) => (i * 37 + 11) % 509);

/** A copy of a fixture in one file, with its tensors changed. */
async function changed(fixture: string, change: (held: Held) => void, config = {}): Promise<string> {
  const dir = copyOfFixture(fixture);
  editConfig(dir, config);
  const checkpoint = await openCheckpoint(join(FIXTURES, fixture));
  const held: Held = new Map();
  for (const { name, dtype, shape } of checkpoint.tensors.values())
    held.set(name, { dtype, shape, bytes: await readTensor(checkpoint, name) });
  change(held);
  const tensors = [...held].map(([name, { bytes, ...tensor }]) => ({ ...tensor, name, data: bytes }));
  await writeSafetensors(join(dir, "model.safetensors"), tensors);
  return dir;
}

async function run(
  dir: string,
  options = {},
): Promise<{ logits: Float32Array; warnings: readonly string[] }> {
  return leavesNothing(async () => {
    const common = { device: "cpu", kv_dtype: "float32", threads: 1, ...options } as const;
    await using model = await AutoModelForCausalLM.from_pretrained(dir, common);
    const { data } = (await model.forward({ input_ids: [IDS] })).logits;
    return { logits: data.slice(), warnings: model.warnings };
  });
}

const rename = (held: Held, from: string, to: string) => {
  held.set(to, held.get(from)!);
  held.delete(from);
};
const EMBED = { llama: "model.embed_tokens.weight", gpt2: "transformer.wte.weight" } as const;
const TIED = { llama: { tie_word_embeddings: true }, gpt2: {} };

describe.each(["llama", "gpt2"] as const)("a tie of %s", (family) => {
  const embed = EMBED[family];
  const tied = () => changed(family, (held) => held.delete("lm_head.weight"), TIED[family]);

  test("stored under either name is both", async () => {
    const head = await changed(
      family,
      (held) => {
        held.delete("lm_head.weight");
        rename(held, embed, "lm_head.weight");
      },
      TIED[family],
    );
    expect(await run(head)).toEqual(await run(await tied()));
  });

  test("with an equal copy beside it is one matrix, and worth no warning", async () => {
    const copy = await changed(family, (held) => held.set("lm_head.weight", held.get(embed)!), TIED[family]);
    expect(await run(copy)).toEqual(await run(await tied()));
  });

  test("that differs in the last element does not hold: each is used, with a warning", async () => {
    const own = (held: Held) => {
      const bytes = held.get(embed)!.bytes.slice();
      new DataView(bytes.buffer).setFloat32(bytes.length - 4, 3, true);
      held.set("lm_head.weight", { ...held.get(embed)!, bytes });
    };
    const differs = await run(await changed(family, own, TIED[family]));
    const untied = await run(await changed(family, own, { tie_word_embeddings: false }));
    expect(differs.logits).toEqual(untied.logits);
    expect(largestDifference(differs.logits, (await run(await tied())).logits)).toBeGreaterThan(0.01);
    expect(untied.warnings).toEqual([]);
    expect(differs.warnings).toEqual([expect.stringMatching(/lm_head.weight is .* two that differ/)]);
  });

  test("that the config does not have leaves the head missing, with what would make it one", async () => {
    const dir = await changed(family, (held) => held.delete("lm_head.weight"), {
      tie_word_embeddings: false,
    });
    const refused = await rejection(run(dir));
    expect(refused).toBeInstanceOf(CheckpointError);
    expect((refused as Error).message).toMatch(/lm_head.weight \[512,64\] is missing/);
    expect((refused as Error).message).toMatch(/tie_word_embeddings: true makes it the embedding/);
  });
});

test("64-bit floats become 32-bit ones, wherever the weights live", async () => {
  const wide = await changed("llama", (held) => {
    for (const [name, { shape, bytes }] of held) {
      const narrow = new Float32Array(bytes.slice().buffer);
      held.set(name, { dtype: "f64", shape, bytes: new Uint8Array(Float64Array.from(narrow).buffer) });
    }
  });
  const expected = await run(join(FIXTURES, "llama"));
  expect(await run(wide)).toEqual(expected);
  const offload_folder = join(wide, "offload");
  expect(await run(wide, { device_map: "disk", offload_folder })).toEqual(expected);
  const transposed = await changed("gpt2", (held) => {
    const name = "transformer.h.0.mlp.c_fc.weight";
    const { shape, bytes } = held.get(name)!;
    const narrow = new Float32Array(bytes.slice().buffer);
    held.set(name, { dtype: "f64", shape, bytes: new Uint8Array(Float64Array.from(narrow).buffer) });
  });
  expect(await run(transposed)).toEqual(await run(join(FIXTURES, "gpt2")));
});

describe("tensors the model does not have", () => {
  const passedOver: [string, string, { dtype: string; shape: number[] }][] = [
    ["value head", "v_head.summary.weight", { dtype: "F32", shape: [1, 64] }],
    ["head of a classifier", "score.weight", { dtype: "F32", shape: [2, 64] }],
    ["prediction of further tokens", "mtp.layers.0.fc.weight", { dtype: "BF16", shape: [4, 4] }],
    ["layer beyond the last one", "model.layers.3.input_layernorm.weight", { dtype: "F32", shape: [64] }],
    ["scale of the KV cache", "model.layers.0.self_attn.k_scale", { dtype: "F32", shape: [] }],
    ["marker without elements", "model.layers.0.self_attn.marker", { dtype: "F32", shape: [0] }],
    ["mask of booleans", "mask", { dtype: "BOOL", shape: [5] }],
    ["floats of eight bits", "other.weight", { dtype: "F8_E4M3", shape: [2, 2] }],
    ["whole numbers", "steps", { dtype: "I64", shape: [1] }],
  ];
  test.each(passedOver)("%s: passed over and named", async (_, name, { dtype, shape }) => {
    const dir = copyOfFixture("llama");
    addTensor(dir, name, dtype, shape);
    const { logits, warnings } = await run(dir);
    expect(logits).toEqual((await run(join(FIXTURES, "llama"))).logits);
    expect(warnings).toEqual([expect.stringContaining(`ignored 1 tensor the model does not have: ${name}`)]);
  });

  test("frequencies of old checkpoints are worth no warning", async () => {
    const dir = copyOfFixture("llama");
    addTensor(dir, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", [8]);
    expect((await run(dir)).warnings).toEqual([]);
  });

  const refused: [string, string, string, number[], RegExp][] = [
    [
      "a bias that the config does not have",
      "model.layers.0.self_attn.q_proj.bias",
      "F32",
      [64],
      /config.json says that there are no such biases/,
    ],
    ["a bias of the head", "lm_head.bias", "F32", [512], /no such biases/],
    [
      "a norm of queries",
      "model.layers.0.self_attn.q_norm.weight",
      "F32",
      [16],
      /q_norm.weight \[16\].*is not part of the model/,
    ],
    [
      "scales of quantized weights",
      "model.layers.0.mlp.up_proj.weight_scale",
      "F32",
      [1],
      /the weights are quantized/,
    ],
    [
      "an adapter that was not merged",
      "model.layers.0.mlp.up_proj.lora_A.weight",
      "F32",
      [2, 64],
      /adapter that was not merged/,
    ],
    [
      "a norm of the embedding",
      "model.embed_norm.weight",
      "F32",
      [64],
      /embed_norm.weight \[64\].*is not part/,
    ],
  ];
  test.each(refused)("%s: refused by name", async (_, name, dtype, shape, message) => {
    const dir = copyOfFixture("llama");
    addTensor(dir, name, dtype, shape);
    const error = await rejection(run(dir));
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as Error).message).toMatch(message);
  });

  test("a type that is not read, of a weight that is needed", async () => {
    const dir = await changed("llama", (held) => held.delete("model.norm.weight"));
    addTensor(dir, "model.norm.weight", "F8_E4M3", [64]);
    const error = await rejection(run(dir));
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(
      /model.norm.weight is F8_E4M3; weights of F64, F32, F16 and BF16/,
    );
  });
});

import { describe, expect, test } from "vitest";
import { CheckpointError, UnsupportedError } from "../base/errors.ts";
import { openCheckpoint, readConfigJson } from "../formats/index.ts";
import { makeCheckpoint, type SyntheticOptions } from "../formats/synthetic.ts";
import { fixture, temporaryFolder } from "../formats/testing.ts";
import type { Checkpoint, TensorEntry } from "../formats/types.ts";
import { modelSpec } from "../models/families.ts";
import { modelUnits, type Unit } from "./units.ts";

/** The units of a made checkpoint, whose weights are holes: only names and shapes count here. */
async function made(options: SyntheticOptions, dtype: "auto" | "f16" = "auto") {
  const {
    path,
    config,
    parameters: written,
  } = await makeCheckpoint(temporaryFolder(), {
    sparse: true,
    ...options,
  });
  const checkpoint = await openCheckpoint(path);
  const spec = modelSpec(config);
  return { written, ...modelUnits(spec, checkpoint, { dtype }) };
}

const named = (units: readonly Unit[], name: string) => units.find((u) => u.name === name) as Unit;

describe("llama", () => {
  test("a unit per half layer, with its matrices; vectors are apart and in f32", async () => {
    const { units, parameters, bytesByDType, written } = await made({
      family: "llama",
      layers: 2,
      dtype: "bf16",
    });
    expect(units.map((u) => u.name)).toEqual([
      "model.embed_tokens",
      "model.layers.0.self_attn",
      "model.layers.0.mlp",
      "model.layers.1.self_attn",
      "model.layers.1.mlp",
      "lm_head",
    ]);
    const mlp = named(units, "model.layers.1.mlp");
    expect(mlp.index).toBe(4);
    expect(mlp.owned.map((m) => [m.name, m.ne, m.dtype, m.bytes])).toEqual([
      ["model.layers.1.mlp.gate_proj.weight", [64, 160], "bf16", 20_480],
      ["model.layers.1.mlp.up_proj.weight", [64, 160], "bf16", 20_480],
      ["model.layers.1.mlp.down_proj.weight", [160, 64], "bf16", 20_480],
    ]);
    expect(mlp.bytes).toBe(3 * 20_480);
    expect(mlp.vectors.map((v) => [v.key, v.length])).toEqual([["norm", 64]]);
    expect(parameters).toBe(written);
    // Two norms of 64 in each of two layers and one at the end.
    expect(bytesByDType).toEqual({ bf16: 2 * (parameters - 320), f32: 4 * 320 });
  });

  test("the table of tokens is used by the row, the head is not", async () => {
    const { units } = await made({ family: "llama", tie_word_embeddings: false });
    expect(named(units, "model.embed_tokens").rowsOnly).toBe(true);
    expect(named(units, "lm_head").rowsOnly).toBe(false);
    expect(named(units, "model.layers.0.mlp").rowsOnly).toBe(false);
  });

  test("tied to the head, the table belongs to the head, and counts once", async () => {
    const { units, parameters, written } = await made({ family: "llama", tie_word_embeddings: true });
    const [embed, head] = [named(units, "model.embed_tokens"), named(units, "lm_head")];
    expect(embed.owned).toEqual([]);
    expect(embed.bytes).toBe(0);
    expect(head.owned.map((m) => m.name)).toEqual(["model.embed_tokens.weight"]);
    expect(embed.matrices.tokens).toBe(head.matrices.head);
    expect(head.rowsOnly).toBe(false);
    expect(parameters).toBe(written);
  });
});

test("gpt2's matrices are turned round: ggml's order is that of the result", async () => {
  const { units } = await made({ family: "gpt2", dtype: "f32" });
  const [qkv] = named(units, "transformer.h.0.attn").owned;
  expect(qkv).toMatchObject({ name: "transformer.h.0.attn.c_attn.weight", transposed: true, ne: [64, 192] });
  expect(qkv?.source.shape).toEqual([64, 192]);
  expect(
    named(units, "transformer.h.0.mlp")
      .vectors.map((v) => v.key)
      .sort(),
  ).toEqual(["down_bias", "norm", "norm_bias", "up_bias"]);
});

test("another dtype changes what is held, not what is read", async () => {
  const { units } = await made({ family: "llama", dtype: "f32" }, "f16");
  const [q] = named(units, "model.layers.0.self_attn").owned;
  expect(q?.dtype).toBe("f16");
  expect(q?.source.dtype).toBe("f32");
  expect(q?.bytes).toBe((q?.source.bytes ?? 0) / 2);
});

describe("names", () => {
  /** The fixture's checkpoint with its tensors under other names, or of other shapes. */
  async function changed(change: (entries: Map<string, TensorEntry>) => void) {
    const spec = modelSpec(await readConfigJson(fixture("llama")));
    const checkpoint = await openCheckpoint(fixture("llama"));
    const tensors = new Map(checkpoint.tensors);
    change(tensors);
    return () => modelUnits(spec, { ...checkpoint, tensors } satisfies Checkpoint, { dtype: "auto" });
  }
  const rename = (entries: Map<string, TensorEntry>, from: string, to: string) => {
    const entry = entries.get(from) as TensorEntry;
    entries.delete(from);
    entries.set(to, { ...entry, name: to });
  };

  test("a checkpoint saved from the bare model lacks the family's prefix", async () => {
    const build = await changed((entries) => {
      for (const name of [...entries.keys()]) {
        if (name.startsWith("model.")) rename(entries, name, name.slice("model.".length));
      }
    });
    expect(named(build().units, "model.layers.0.mlp").owned[0]?.name).toBe("layers.0.mlp.gate_proj.weight");
  });

  test("frequencies that old checkpoints hold are passed over", async () => {
    const build = await changed((entries) => {
      const entry = entries.get("model.norm.weight") as TensorEntry;
      const name = "model.layers.0.self_attn.rotary_emb.inv_freq";
      entries.set(name, { ...entry, name });
    });
    expect(build().units).toHaveLength(8);
  });

  test("missing, extra and misshapen tensors are all named at once", async () => {
    const build = await changed((entries) => {
      rename(entries, "model.norm.weight", "model.norm.gain");
      const down = entries.get("model.layers.2.mlp.down_proj.weight") as TensorEntry;
      entries.set(down.name, { ...down, shape: [64, 161] });
    });
    expect(build).toThrow(CheckpointError);
    expect(build).toThrow(/1 has another shape, 1 is missing, 1 is not part of the model/);
    expect(build).toThrow(/model.norm.gain \[64\]/);
  });

  test("a type that no kernel multiplies", async () => {
    const build = await changed((entries) => {
      const q = entries.get("model.layers.1.self_attn.q_proj.weight") as TensorEntry;
      entries.set(q.name, { ...q, dtype: "i8" });
    });
    expect(build).toThrow(UnsupportedError);
    expect(build).toThrow(/q_proj.weight is i8; weights of f64, f32, f16 and bf16 can be run/);
  });
});

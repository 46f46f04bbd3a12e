// The fixture is an adapter that PEFT 0.21 wrote for the llama checkpoint of the fixtures.
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError, SpillwayError, UnsupportedError } from "../base/errors.ts";
import { readTensor, type TensorSource, writeSafetensors } from "../formats/index.ts";
import { fixture, openHandles, rejection, temporaryFolder } from "../formats/testing.ts";
import { modelSpec } from "../models/families.ts";
import { loraConfigJson, parseLoraConfig } from "./config.ts";
import { type Adapter, adapterTensors, openAdapter, writeAdapter } from "./files.ts";
import { loraTargets, savedWeights } from "./targets.ts";

const ADAPTER = join(import.meta.dirname, "../../test/fixtures/adapters/llama");
const readJson = (...path: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(join(...path), "utf8"));
const spec = modelSpec(readJson(fixture("llama"), "config.json"));

/** The fixture's folder with changes to its config. */
function changed(changes: Record<string, unknown>): string {
  const dir = temporaryFolder();
  cpSync(ADAPTER, dir, { recursive: true });
  writeFileSync(
    join(dir, "adapter_config.json"),
    JSON.stringify({ ...readJson(ADAPTER, "adapter_config.json"), ...changes }),
  );
  return dir;
}

/** All tensors of an adapter with their data. */
function tensorsOf({ checkpoint }: Adapter): Promise<TensorSource[]> {
  const entries = [...checkpoint.tensors.values()];
  return Promise.all(
    entries.map(async ({ name, dtype, shape }) => ({
      name,
      dtype,
      shape,
      data: await readTensor(checkpoint, name),
    })),
  );
}

/** Tensors of zeros for a config. */
function zeros(config: Record<string, unknown>): TensorSource[] {
  const parsed = parseLoraConfig(config);
  return adapterTensors(loraTargets(parsed, spec), savedWeights(parsed, spec)).map((tensor) => ({
    ...tensor,
    dtype: "f32",
    data: "zeros",
  }));
}

describe("openAdapter", () => {
  test("an adapter of PEFT's: its config, and the layers it changes", async () => {
    const { config, targets, saved, checkpoint } = await openAdapter(ADAPTER, spec);
    expect(config).toMatchObject({
      r: 8,
      lora_alpha: 16,
      target_modules: ["v_proj", "q_proj"],
      task_type: "CAUSAL_LM",
    });
    expect(targets.map(({ module }) => module)).toEqual(
      [0, 1, 2].flatMap((layer) =>
        ["q_proj", "v_proj"].map((name) => `model.layers.${layer}.self_attn.${name}`),
      ),
    );
    expect(saved).toEqual([]);
    for (const { a, b, scale } of targets) {
      expect(scale).toBe(2);
      expect(checkpoint.tensors.get(a)?.dtype).toBe("f32");
      expect((await readTensor(checkpoint, b)).some((byte) => byte !== 0)).toBe(true);
    }
  });

  test.each<[Record<string, unknown>, RegExp]>([
    [{ use_dora: true }, /use_dora is true, which is not supported/],
    [{ peft_type: "IA3" }, /peft_type "IA3"; supported: LORA/],
    [{ layer_replication: [[0, 2]] }, /layer_replication is \[\[0,2\]\]/],
    [{ target_parameters: ["experts.down_proj"] }, /target_parameters/],
    [{ trainable_token_indices: { embed_tokens: [1] } }, /trainable_token_indices/],
    [
      { init_lora_weights: "pissa_niter_4" },
      /init_lora_weights "pissa_niter_4" changes the weights of the base/,
    ],
  ])("what is not supported is named: %j", async (changes, message) => {
    const error = await rejection(openAdapter(changed(changes), spec));
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(String(error)).toMatch(message);
  });

  test.each<[Record<string, unknown>, RegExp]>([
    [{ r: 0 }, /: r is 0, expected a whole number/],
    [{ r: "8" }, /r is "8"/],
    [{ lora_alpha: null, use_rslora: "yes" }, /use_rslora is "yes"/],
    [{ lora_dropout: 1 }, /lora_dropout: is 1, expected a share/],
    [{ target_modules: [1] }, /target_modules: is \[1\]/],
    [{ target_modules: "q", layers_to_transform: [1] }, /layers_to_transform: goes with a list/],
    [{ layers_to_transform: ["1"] }, /layers_to_transform/],
    [
      { rank_pattern: { q_proj: 0 } },
      /rank_pattern: is \{"q_proj":0\}, expected an object with a rank above 0/,
    ],
    [{ alpha_pattern: [] }, /alpha_pattern/],
    [{ modules_to_save: "lm_head" }, /modules_to_save/],
    [{ init_lora_weights: 5 }, /init_lora_weights/],
  ])("a value that cannot be used is named: %j", async (changes, message) => {
    const error = await rejection(openAdapter(changed(changes), spec));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toMatch(/adapter_config\.json: /);
    expect(String(error)).toMatch(message);
  });

  test("tensors that do not fit config and model are listed", async () => {
    const rank = String(await rejection(openAdapter(changed({ r: 4 }), spec)));
    expect(rank).toMatch(/12 of the tensors do not fit/);
    expect(rank).toMatch(
      /layers\.0\.self_attn\.q_proj\.lora_A\.weight is \[8,64\], adapter_config\.json calls for \[4,64\]/,
    );
    expect(rank).toMatch(/and 4 more/);
    const fewer = String(await rejection(openAdapter(changed({ target_modules: ["q_proj"] }), spec)));
    expect(fewer).toMatch(/v_proj\.lora_A\.weight \[8,64\] is not called for/);
    const more = String(await rejection(openAdapter(changed({ modules_to_save: ["lm_head"] }), spec)));
    expect(more).toMatch(/base_model\.model\.lm_head\.weight \[512,64\] is missing/);
  });

  test("missing files say which; a pickle is not opened", async () => {
    const dir = changed({});
    rmSync(join(dir, "adapter_model.safetensors"));
    expect(String(await rejection(openAdapter(dir, spec)))).toMatch(
      /adapter_model\.safetensors: does not exist beside/,
    );
    writeFileSync(join(dir, "adapter_model.bin"), "");
    const pickle = await rejection(openAdapter(dir, spec));
    expect(pickle).toBeInstanceOf(UnsupportedError);
    expect(String(pickle)).toMatch(/safe_serialization=True/);
    rmSync(join(dir, "adapter_config.json"));
    expect(await rejection(openAdapter(dir, spec))).toBeInstanceOf(CheckpointError);
  });

  test("tensors of whole numbers are no adapter", async () => {
    const dir = changed({});
    const tensors = zeros({ target_modules: ["q_proj", "v_proj"] }).map((tensor) => ({
      ...tensor,
      dtype: "i32" as const,
    }));
    await writeSafetensors(join(dir, "adapter_model.safetensors"), tensors);
    expect(String(await rejection(openAdapter(dir, spec)))).toMatch(/is i32; adapters may be f32, f16, bf16/);
  });
});

describe("writeAdapter", () => {
  test("PEFT's adapter, read and written, is PEFT's adapter", async () => {
    const adapter = await openAdapter(ADAPTER, spec);
    const dir = join(temporaryFolder(), "made");
    await writeAdapter(dir, adapter.config, spec, await tensorsOf(adapter));
    const weights = "adapter_model.safetensors";
    expect(readFileSync(join(dir, weights)).equals(readFileSync(join(ADAPTER, weights)))).toBe(true);
    expect(readJson(dir, "adapter_config.json")).toEqual(readJson(ADAPTER, "adapter_config.json"));
    expect(readdirSync(dir).sort()).toEqual(["adapter_config.json", weights]);
  });

  test("keys nobody here knows are written back", () => {
    const json = {
      ...readJson(ADAPTER, "adapter_config.json"),
      future_option: { a: [1, null] },
      peft_version: "9.9",
    };
    expect(loraConfigJson(parseLoraConfig(json))).toEqual(json);
  });

  test("a config made of options has what PEFT needs to read it", () => {
    expect(
      loraConfigJson(parseLoraConfig({ r: 4, lora_alpha: 8, target_modules: ["q_proj"] })),
    ).toMatchObject({
      ...{
        peft_type: "LORA",
        bias: "none",
        r: 4,
        lora_alpha: 8,
        target_modules: ["q_proj"],
        use_dora: false,
      },
      ...{
        lora_dropout: 0,
        modules_to_save: null,
        inference_mode: true,
        rank_pattern: {},
        init_lora_weights: true,
      },
    });
  });

  test("ranks by pattern, bf16, and modules saved whole come back", async () => {
    const dir = temporaryFolder();
    const options = {
      r: 4,
      rank_pattern: { "0.self_attn.q_proj": 2 },
      modules_to_save: ["lm_head", "model.norm"],
    };
    const tensors = zeros(options).map((tensor) => ({ ...tensor, dtype: "bf16" as const }));
    await writeAdapter(dir, parseLoraConfig(options), spec, tensors);
    const adapter = await openAdapter(dir, spec);
    expect(adapter.targets.map(({ r }) => r)).toEqual([2, 4, 4, 4, 4, 4]);
    expect(adapter.saved.map(({ name }) => name)).toEqual(["model.norm.weight", "lm_head.weight"]);
    expect(adapter.checkpoint.tensors.get("base_model.model.lm_head.weight")).toMatchObject({
      dtype: "bf16",
      shape: [512, 64],
    });
    expect(adapter.config).toEqual(parseLoraConfig(readJson(dir, "adapter_config.json")));
  });

  test("tensors that are not the config's are refused before anything is written", async () => {
    const dir = join(temporaryFolder(), "none");
    const error = await rejection(writeAdapter(dir, parseLoraConfig({ r: 4 }), spec, zeros({ r: 8 })));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(/is \[8,64\], the config calls for \[4,64\]/);
    expect(readdirSync(join(dir, ".."))).toEqual([]);
  });

  test("when the data fails half-way the adapter that was there stays", async () => {
    const dir = changed({});
    const before = await tensorsOf(await openAdapter(dir, spec));
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(8);
      throw new CheckpointError("the source is gone");
    }
    const tensors = zeros({}).map((tensor, i) => (i === 3 ? { ...tensor, data: broken() } : tensor));
    expect(await rejection(writeAdapter(dir, parseLoraConfig({}), spec, tensors))).toBeInstanceOf(
      SpillwayError,
    );
    expect(await tensorsOf(await openAdapter(dir, spec))).toEqual(before);
    expect(readdirSync(dir).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    expect(openHandles(dir) ?? 0).toBe(0);
  });
});

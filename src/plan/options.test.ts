import { describe, expect, test } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { openCheckpoint, readConfigJson } from "../formats/index.ts";
import { fixture } from "../formats/testing.ts";
import { modelSpec } from "../models/families.ts";
import { type DeviceMap, parseDeviceMap, parseMaxMemory } from "./options.ts";
import { modelUnits } from "./units.ts";

async function unitsOf(name: string) {
  const spec = modelSpec(await readConfigJson(fixture(name)));
  return modelUnits(spec, await openCheckpoint(fixture(name)), { dtype: "auto" }).units;
}
const llama = await unitsOf("llama");
const gpt2 = await unitsOf("gpt2");

/** Tier by unit name, where the map names one. */
function homes(map: DeviceMap, units = llama) {
  const tiers = parseDeviceMap(map, units);
  return Object.fromEntries(units.map((u, i) => [u.name, tiers[i]]));
}

describe("device_map", () => {
  test('"auto" leaves every choice open', () => {
    expect(new Set(Object.values(homes("auto")))).toEqual(new Set([undefined]));
  });

  test.each(["gpu", "cpu", "disk"] as const)('"%s" is for all', (tier) => {
    expect(new Set(Object.values(homes(tier)))).toEqual(new Set([tier]));
  });

  test("the longest path that matches wins, in whatever order they stand", () => {
    const map = { "model.layers.1.mlp": "cpu", "": "disk", "model.layers.1": "gpu" };
    const expected = {
      "model.embed_tokens": "disk",
      "model.layers.0.self_attn": "disk",
      "model.layers.0.mlp": "disk",
      "model.layers.1.self_attn": "gpu",
      "model.layers.1.mlp": "cpu",
      "model.layers.2.self_attn": "disk",
      "model.layers.2.mlp": "disk",
      lm_head: "disk",
    };
    expect(homes(map)).toEqual(expected);
    expect(homes(Object.fromEntries(Object.entries(map).reverse()))).toEqual(expected);
  });

  test("paths are matched by their parts: layers.1 is not layers.10", () => {
    expect(() => homes({ "": "cpu", "model.layer": "disk" })).toThrow(/"model.layer" matches no module/);
  });

  test("a map as Accelerate makes it: device numbers, one entry per module, small ones too", () => {
    const map = {
      "transformer.wte": 0,
      lm_head: 0,
      "transformer.wpe": 0,
      "transformer.drop": 0,
      "transformer.h.0": 0,
      "transformer.h.1": "cpu",
      "transformer.h.2": "disk",
      "transformer.ln_f": "disk",
    };
    expect(homes(map, gpt2)).toMatchObject({
      "transformer.h.0.attn": "gpu",
      "transformer.h.1.mlp": "cpu",
      "transformer.h.2.mlp": "disk",
      lm_head: "gpu",
    });
  });

  test("a tied head is where its matrix is named to be", () => {
    expect(homes({ "": "disk", "transformer.wte": "cpu" }, gpt2).lm_head).toBe("cpu");
  });

  test("names of devices mean the GPU", () => {
    for (const name of ["cuda", "cuda:1", "vulkan:0", "metal", "mps", "GPU", "3"]) {
      expect(homes({ "": name }).lm_head).toBe("gpu");
    }
  });

  test("modules without weights may be named", () => {
    expect(homes({ "": "cpu", "model.rotary_emb": 0 }).lm_head).toBe("cpu");
  });

  test.each<[DeviceMap, RegExp]>([
    [
      { "": "cpu", "model.layers.7": "disk" },
      /"model.layers.7" matches no module; modules are model.embed_tokens/,
    ],
    [{ "": "cloud" }, /device_map\[""\]: "cloud" is not a tier; tiers are gpu, cpu, disk/],
    [{ "model.layers": "cpu" }, /names no tier for model.embed_tokens; add "": "cpu"/],
    [
      { "": "cpu", "model.layers.0.mlp.up_proj": "disk" },
      /model.layers.0.mlp is one unit and moves as a whole/,
    ],
    ["" as DeviceMap, /"" is not a tier/],
  ])("%j is refused", (map, message) => {
    expect(() => homes(map)).toThrow(ConfigError);
    expect(() => homes(map)).toThrow(message);
  });
});

describe("max_memory", () => {
  test("bytes and sizes, per tier", () => {
    expect(parseMaxMemory({ gpu: "6GiB", cpu: 1000, disk: "1.5 TB" })).toEqual({
      gpu: 6 * 2 ** 30,
      cpu: 1000,
      disk: 1.5e12,
    });
  });

  test("device numbers and names mean the GPU, as in Accelerate", () => {
    expect(parseMaxMemory({ 0: "1GiB", cpu: "2GiB" })).toEqual({ gpu: 2 ** 30, cpu: 2 ** 31 });
    expect(parseMaxMemory({ "cuda:0": 5 })).toEqual({ gpu: 5 });
  });

  test("nothing is no limit", () => {
    expect(parseMaxMemory(undefined)).toEqual({});
    expect(parseMaxMemory({ cpu: undefined })).toEqual({});
  });

  test.each([
    [{ tape: 1 }, /max_memory: "tape" is not a tier/],
    [{ 0: 1, 1: 2 }, /gpu is named twice/],
    [{ cpu: -1 }, /max_memory.cpu/],
    [{ cpu: "much" }, /max_memory.cpu: "much" is not a size/],
  ])("%j is refused", (max, message) => {
    expect(() => parseMaxMemory(max)).toThrow(ConfigError);
    expect(() => parseMaxMemory(max)).toThrow(message);
  });
});

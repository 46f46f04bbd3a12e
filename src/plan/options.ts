// Reads the placement options people pass: device_map and max_memory, in the forms Hugging Face users know.

import { type FloatDType, parseDType } from "../backend/ggml/dtypes.ts";
import { ConfigError } from "../base/errors.ts";
import { shown } from "../base/shown.ts";
import { parseSize } from "../memory/sizes.ts";
import { TIERS, type Tier } from "../memory/tiers.ts";
import { HOST, MAIN, type Site } from "./plan.ts";
import { byStage, type Unit } from "./units.ts";

/** A tier, or what means the GPU: a device's index or name. */
export type TierName =
  | Tier
  | number
  | `${number}`
  | "cuda"
  | "vulkan"
  | "metal"
  | "hip"
  | "sycl"
  | "mps"
  | `${"cuda" | "vulkan" | "metal" | "hip" | "sycl" | "mps"}:${number}`;

/** "auto", one tier for all, or a tier per module path; the longest matching path wins. */
export type DeviceMap = "auto" | Tier | Readonly<Record<string, Tier | string | number>>;

/** Bytes or sizes such as "6GiB" per tier. */
export type MaxMemory = { readonly [K in TierName]?: string | number };

/** A type that weights can be held in, by any of its names; "auto" is the checkpoint's. */
export type WeightDType = "auto" | FloatDType | `${"" | "torch."}${"float32" | "float16" | "bfloat16"}`;

/** A type that keys and values can be held in. */
export type CacheDType = Exclude<WeightDType, "auto" | `${string}${"bf16" | "bfloat16"}`>;

/** Modules that maps made by Accelerate name though they have no parameters: rotary tables, activations, dropout. */
const WITHOUT_WEIGHTS = /(^|\.)(rotary_emb|act|act_fn|drop|\w*dropout)$/;

/** What people call types besides the names of torch and of safetensors. */
const SHORT_NAMES: Readonly<Record<string, string>> = {
  fp32: "float32",
  float: "float32",
  fp16: "float16",
  half: "float16",
};

function tierOf(value: unknown, where: string): Tier {
  const name = typeof value === "string" || typeof value === "number" ? String(value).toLowerCase() : "";
  if ((TIERS as readonly string[]).includes(name)) return name as Tier;
  if (/^\d+$/.test(name) || /^(cuda|vulkan|metal|hip|sycl|mps)(:\d+)?$/.test(name)) return "gpu";
  throw new ConfigError(`${where}: ${shown(value)} is not a tier; tiers are ${TIERS.join(", ")}`);
}

/** Bytes per tier; a tier that is not named has no entry. */
export function parseMaxMemory(max: MaxMemory | undefined): Partial<Record<Tier, number>> {
  const budgets: Partial<Record<Tier, number>> = {};
  for (const [key, value] of Object.entries(max ?? {})) {
    if (value === undefined || value === null) continue;
    const tier = tierOf(key, "max_memory");
    if (budgets[tier] !== undefined) throw new ConfigError(`max_memory: ${tier} is named twice`);
    budgets[tier] = parseSize(value, `max_memory.${key}`);
  }
  return budgets;
}

/** A type that weights can be held in; "auto" is the checkpoint's. Throws ConfigError for any other. */
export function parseWeightDType(name: string): "auto" | FloatDType {
  if (name === "auto") return "auto";
  const lower = name.toLowerCase();
  const dtype = parseDType(Object.hasOwn(SHORT_NAMES, lower) ? (SHORT_NAMES[lower] as string) : name);
  if (dtype === "f32" || dtype === "f16" || dtype === "bf16") return dtype;
  throw new ConfigError(`dtype "${name}" is not one of auto, float32, float16, bfloat16`);
}

/**
 * The tier a map names for each unit, or undefined where it leaves the choice open.
 * Throws ConfigError for keys that match nothing, and for parts of one unit put on different tiers.
 */
export function parseDeviceMap(map: DeviceMap, units: readonly Unit[]): (Tier | undefined)[] {
  if (map === "auto") return units.map(() => undefined);
  if (typeof map === "string") {
    const tier = tierOf(map, "device_map");
    return units.map(() => tier);
  }
  const entries = Object.entries(map).map(([key, value]) => ({
    key,
    tier: tierOf(value, `device_map["${key}"]`),
  }));
  const used = new Set<string>();
  const lookup = (path: string) => {
    let best: (typeof entries)[number] | undefined;
    for (const entry of entries) {
      const inside = path.startsWith(`${entry.key}.`) || path.startsWith(`${entry.key}[`); // some rows: "lm_head[0:4096]"
      if (entry.key !== "" && path !== entry.key && !inside) continue;
      used.add(entry.key);
      if (!best || entry.key.length > best.key.length) best = entry;
    }
    return best?.tier;
  };
  const homes = units.map((unit) => {
    const tiers = new Map<Tier, string>();
    for (const matrix of unit.owned) {
      const tier = lookup(matrix.name);
      if (tier) tiers.set(tier, matrix.name);
    }
    for (const vector of unit.vectors) lookup(vector.source.name); // small ones follow their unit
    const own = lookup(unit.name);
    if (tiers.size > 1) {
      const parts = [...tiers].map(([tier, name]) => `${name} on ${tier}`).join(", ");
      throw new ConfigError(
        `device_map: ${unit.name} is one unit and moves as a whole, but it puts ${parts}`,
      );
    }
    if (unit.owned.some((m) => m.within) && entries.some(({ key }) => key === unit.name)) return own;
    return [...tiers.keys()][0] ?? own;
  });
  const unused = entries.filter((e) => !used.has(e.key) && !WITHOUT_WEIGHTS.test(e.key));
  if (unused.length > 0) {
    const names = units.slice(0, 3).map((u) => u.name);
    throw new ConfigError(
      `device_map: "${unused[0]?.key}" matches no module; modules are ${names.join(", ")} ... ${units.at(-1)?.name}`,
    );
  }
  const open = units.find((u, i) => homes[i] === undefined && u.bytes > 0);
  if (open)
    throw new ConfigError(`device_map names no tier for ${open.name}; add "": "cpu" for all the rest`);
  return homes.map((tier) => tier ?? "cpu");
}

/** Where stages are computed: see {@link parseCompute}. */
export type ComputeMap = "auto" | "gpu" | "hybrid" | Readonly<Record<string, string>>;

/** What a {@link ComputeMap} comes to. */
export interface ComputeChoice {
  /** auto: as gpu or as hybrid, whichever is predicted to be faster. A map of modules is a hybrid of one's own. */
  readonly mode: "auto" | "gpu" | "hybrid";
  /** By stage, where the map says it. */
  readonly computeOf: readonly (Site | undefined)[];
}

/**
 * Reads `compute`. "gpu": the device computes everything, and what is in RAM or on disk is brought to it. "hybrid": what is
 * not in its memory is computed by the CPU where it lies. A map names "gpu" (or the device) or "cpu" for module paths; the
 * longest matching path wins, and what it leaves open is computed where its weights are.
 * Throws ConfigError for other words, other devices, and paths that match nothing.
 */
export function parseCompute(compute: ComputeMap, units: readonly Unit[], device: string): ComputeChoice {
  const stages = byStage(units);
  const open = stages.map(() => undefined);
  if (typeof compute === "string") {
    const mode = (["auto", "gpu", "hybrid"] as const).find((known) => known === compute.toLowerCase());
    if (mode) return { mode, computeOf: open };
    throw new ConfigError(
      `compute: ${shown(compute)} is not one of auto, gpu, hybrid, or a map such as { "": "gpu", "model.layers.0": "cpu" }`,
    );
  }
  const used = new Set<string>();
  const computeOf = stages.map(({ stage }): Site | undefined => {
    const matching = Object.keys(compute).filter(
      (key) => key === "" || stage.name === key || stage.name.startsWith(`${key}.`),
    );
    for (const key of matching) used.add(key);
    const key = matching.sort((a, b) => b.length - a.length)[0];
    return key === undefined ? undefined : siteOf(compute[key], key, device);
  });
  const unused = Object.keys(compute).find((key) => !used.has(key));
  if (unused !== undefined) {
    const names = stages.slice(0, 3).map(({ stage }) => stage.name);
    throw new ConfigError(
      `compute: "${unused}" matches no stage; stages are ${names.join(", ")} ... ${stages.at(-1)?.stage.name}`,
    );
  }
  return { mode: "hybrid", computeOf };
}

function siteOf(value: unknown, key: string, device: string): Site {
  const name = typeof value === "string" ? value.toLowerCase() : "";
  const sites: Record<string, Site | undefined> = {
    gpu: MAIN,
    [device]: MAIN,
    [device.split(":")[0] ?? ""]: MAIN,
    cpu: HOST,
  };
  const site = sites[name];
  if (site !== undefined) return site;
  throw new ConfigError(
    `compute["${key}"]: ${shown(value)} is neither cpu nor the device that was opened (${device})`,
  );
}

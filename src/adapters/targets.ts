// Which modules of a model an adapter changes, by PEFT's rules (check_target_module_exists in peft/tuners/tuners_utils.py),
// and under which names and shapes its tensors are stored. No files.
import { ConfigError, UnsupportedError } from "../base/errors.ts";
import type { ModelSpec, WeightSpec } from "../models/spec.ts";
import { type LoraConfig, loraScale } from "./config.ts";
import { PREFIX } from "./names.ts";
import { fullMatches, matchGroups } from "./patterns.ts";

/** A linear layer y = W x that becomes y = W x + scale B (A x). */
export interface LoraTarget {
  /** Path of the module: "model.layers.0.self_attn.q_proj". */
  readonly module: string;
  /** The base's weight. */
  readonly weight: WeightSpec;
  readonly in: number;
  readonly out: number;
  readonly r: number;
  readonly scale: number;
  /** Name of A [r, in] in the adapter's file. */
  readonly a: string;
  /** Name of B [out, r]. */
  readonly b: string;
}

/** What PEFT chooses where a config names no modules (peft/utils/constants.py). */
const DEFAULT_TARGETS: Readonly<Record<string, readonly string[]>> = {
  gpt2: ["c_attn"],
  gpt_neox: ["query_key_value"],
  opt: ["q_proj", "v_proj"],
  llama: ["q_proj", "v_proj"],
  mistral: ["q_proj", "v_proj"],
  mixtral: ["q_proj", "v_proj"],
  qwen2: ["q_proj", "v_proj"],
  qwen3: ["q_proj", "v_proj"],
  gemma2: ["q_proj", "v_proj"],
  gemma3_text: ["q_proj", "v_proj"],
};

const WEIGHT = ".weight";
const BIAS = ".bias";
const ALL_LINEAR = "all-linear";

/**
 * The linear layers that a config changes, in the order of the model.
 * Throws ConfigError if there are none or a pattern cannot be used, UnsupportedError for a module that is not a linear
 * layer (PEFT has no adapters for norms; those for embedding tables are not supported).
 */
export function loraTargets(
  config: LoraConfig,
  spec: ModelSpec,
  where = "adapter_config.json",
): LoraTarget[] {
  const linear = linearLayers(spec);
  const chosen = chosenModules(config, spec, linear, where);
  const rank = patternValues(config.rank_pattern, chosen, `${where}: rank_pattern`);
  const alpha = patternValues(config.alpha_pattern, chosen, `${where}: alpha_pattern`);
  return chosen.map((module) => {
    const weight = linear.get(module);
    if (weight === undefined) {
      throw new UnsupportedError(
        `${where}: target_modules chooses ${module}, which is not a linear layer; choose among ${lastNames(linear.keys())}`,
      );
    }
    const [rows, columns] = weight.shape as [number, number];
    const [out, input] = weight.transposed ? [columns, rows] : [rows, columns];
    const r = rank.get(module) ?? config.r;
    const name = `${PREFIX}${module}`;
    return {
      ...{ module, weight, in: input, out, r, scale: loraScale(config, r, alpha.get(module)) },
      ...{ a: `${name}.lora_A.weight`, b: `${name}.lora_B.weight` },
    };
  });
}

/**
 * The parameters that are kept whole, in the order of the model: those of the modules in `modules_to_save`, and the
 * biases that `bias` names. Throws ConfigError for a name no module ends with.
 */
export function savedWeights(
  config: LoraConfig,
  spec: ModelSpec,
  where = "adapter_config.json",
): WeightSpec[] {
  const modules = modulePaths(spec);
  const wanted = new Set<string>();
  for (const name of config.modules_to_save ?? []) {
    const found = modules.filter((module) => module.endsWith(name));
    if (found.length === 0)
      throw new ConfigError(
        `${where}: modules_to_save: no module's path ends with ${JSON.stringify(name)}; modules are ${lastNames(modules)}`,
      );
    for (const module of found) wanted.add(module);
  }
  const biased =
    config.bias === "lora_only"
      ? new Set(loraTargets(config, spec, where).map(({ module }) => `${module}${BIAS}`))
      : undefined;
  const trainsBias = (name: string) =>
    name.endsWith(BIAS) && (config.bias === "all" || (biased?.has(name) ?? false));
  return parameters(spec).filter(
    ({ name }) => containers(name).some((module) => wanted.has(module)) || trainsBias(name),
  );
}

/**
 * Throws ConfigError for a name in a list of `target_modules` or `exclude_modules` that no module has. PEFT passes over
 * them where another one matches, so this is for configs that people write here, not for adapters of others.
 */
export function checkNames(config: LoraConfig, spec: ModelSpec, where: string): void {
  const modules = modulePaths(spec);
  for (const key of ["target_modules", "exclude_modules"] as const) {
    const names = config[key];
    if (names === null || typeof names === "string") continue;
    for (const name of names) {
      if (name.toLowerCase() === ALL_LINEAR || matchNames([name], modules, where).size > 0) continue;
      throw new ConfigError(
        `${where}: ${key} names ${JSON.stringify(name)}, which no module of the ${spec.model_type} is called; choose ` +
          `among ${lastNames(linearLayers(spec).keys())}, "${ALL_LINEAR}"`,
      );
    }
  }
}

/** The config with "all-linear" in a list of names replaced by the names it stands for: PEFT knows it only alone. */
export function withoutAllLinear(config: LoraConfig, spec: ModelSpec): LoraConfig {
  const { target_modules: names } = config;
  if (names === null || typeof names === "string") return config;
  const others = names.filter((name) => name.toLowerCase() !== ALL_LINEAR);
  if (others.length === names.length) return config;
  return { ...config, target_modules: [...new Set([...allLinear(spec), ...others])] };
}

/** Modules that a config chooses among `keys`, in their order. What PEFT's check_target_module_exists says of each. */
export function matchModules(
  config: LoraConfig,
  keys: readonly string[],
  where = "adapter_config.json",
): string[] {
  const left = new Set(keys);
  const { exclude_modules: exclude, target_modules: targets } = config;
  for (const key of matchNames(exclude ?? [], keys, `${where}: exclude_modules`)) left.delete(key);
  for (const name of config.modules_to_save ?? []) {
    const inside = fullMatches(`(?:^|.*\\.)(?:${name})(?:$|\\..*)`, keys, `${where}: modules_to_save`);
    for (const key of inside) left.delete(key);
  }
  const matched = matchNames(targets ?? [], keys, `${where}: target_modules`);
  const wanted = [config.layers_to_transform ?? []].flat();
  if (wanted.length > 0) {
    const layers = layerNumbers(config, keys, where);
    // A module that is named in full is changed whatever its layer.
    for (const key of matched)
      if (!targets?.includes(key) && !wanted.includes(layers.get(key) ?? -1)) matched.delete(key);
  }
  return keys.filter((key) => left.has(key) && matched.has(key));
}

function chosenModules(
  config: LoraConfig,
  spec: ModelSpec,
  linear: ReadonlyMap<string, WeightSpec>,
  where: string,
): string[] {
  let targets = config.target_modules ?? DEFAULT_TARGETS[spec.model_type];
  if (targets === undefined) {
    throw new ConfigError(
      `${where}: target_modules is missing and ${spec.model_type} has no default; choose among ${lastNames(linear.keys())}`,
    );
  }
  if (typeof targets === "string" && targets.toLowerCase() === ALL_LINEAR) {
    targets = allLinear(spec);
  }
  const chosen = matchModules({ ...config, target_modules: targets }, modulePaths(spec), where);
  if (chosen.length > 0) return chosen;
  throw new ConfigError(
    `${where}: target_modules ${JSON.stringify(config.target_modules)} chooses no module of the ${spec.num_layers}-layer ` +
      `${spec.model_type}; choose among ${lastNames(linear.keys())}, "${ALL_LINEAR}", or a pattern for paths such as ` +
      `${[...linear.keys()][0]}`,
  );
}

/** A string is a pattern for the whole path; of a list, the path is a member or ends with one after a dot. */
function matchNames(names: string | readonly string[], keys: readonly string[], where: string): Set<string> {
  if (typeof names === "string") return names === "" ? new Set() : fullMatches(names, keys, where);
  const exact = new Set(names);
  return new Set(keys.filter((key) => exact.has(key) || names.some((name) => key.endsWith(`.${name}`))));
}

/** The number behind the first such container in the path of each key: of "model.layers.3.mlp.up_proj" it is 3. */
function layerNumbers(
  { layers_pattern }: LoraConfig,
  keys: readonly string[],
  where: string,
): Map<string, number> {
  const given = typeof layers_pattern === "string" ? [layers_pattern] : (layers_pattern ?? []);
  const containers = given.filter((name) => name !== "");
  const layers = new Map<string, number>();
  for (const container of containers.length > 0 ? containers : ["[^.]*"]) {
    const pattern = `.*?\\.${container}\\.(?P<layer>\\d+)\\..*`;
    for (const [key, groups] of matchGroups(pattern, keys, `${where}: layers_pattern`))
      if (!layers.has(key)) layers.set(key, Number(groups.layer));
  }
  return layers;
}

/** For each module the value of the first pattern that the end of its path matches. */
function patternValues(
  patterns: Readonly<Record<string, number>>,
  modules: readonly string[],
  where: string,
): Map<string, number> {
  const values = new Map<string, number>();
  for (const [pattern, value] of Object.entries(patterns)) {
    for (const module of fullMatches(`(?:.*\\.)?(?:${pattern})`, modules, where))
      if (!values.has(module)) values.set(module, value);
  }
  return values;
}

function parameters(spec: ModelSpec): WeightSpec[] {
  const all = spec.stages.flatMap(({ weights }) => Object.values(weights));
  return [...new Map(all.map((weight) => [weight.name, weight])).values()];
}

/** Linear layers by module path: matrices that are multiplied with, not tables that rows are taken from. */
function linearLayers(spec: ModelSpec): Map<string, WeightSpec> {
  const linear = parameters(spec).filter(
    ({ name, shape, rows }) => name.endsWith(WEIGHT) && shape.length === 2 && rows === undefined,
  );
  return new Map(linear.map((weight) => [weight.name.slice(0, -WEIGHT.length), weight]));
}

/** Paths of the linear layers that "all-linear" means: all but the head. */
function allLinear(spec: ModelSpec): string[] {
  const head = spec.stages
    .filter(({ kind }) => kind === "head")
    .flatMap(({ weights }) => Object.values(weights));
  return [...linearLayers(spec)].filter(([, weight]) => !head.includes(weight)).map(([module]) => module);
}

/** Every module that has parameters, and every module those are in: "model", "model.layers", ... Outer ones first. */
function modulePaths(spec: ModelSpec): string[] {
  return [...new Set(parameters(spec).flatMap(({ name }) => containers(name)))];
}

/** The modules a parameter is in: of "a.b.weight" they are "a" and "a.b". */
function containers(parameter: string): string[] {
  const parts = parameter.split(".");
  return parts.slice(1).map((_, i) => parts.slice(0, i + 1).join("."));
}

/** The different last parts of paths, for messages. */
function lastNames(paths: Iterable<string>): string {
  return [...new Set([...paths].map((path) => path.slice(path.lastIndexOf(".") + 1)))].join(", ");
}

// Which parameters train: names, shapes, and the stages that use them. In the order of the model, which is also the order
// in which norms are added up. No memory.
import { type LoraTarget, loraTargets, savedWeights } from "../../adapters/index.ts";
import type { FloatDType } from "../../backend/ggml/dtypes.ts";
import { ConfigError, UnsupportedError } from "../../base/errors.ts";
import type { Matrix, Unit } from "../../plan/units.ts";
import type { KnownModel } from "../../runtime/open/training-hooks.ts";
import type { TrainerSettings } from "./options.ts";

/** A parameter's part in a stage. */
export interface Use {
  /** Index of the unit. */
  readonly unit: number;
  /** Key of the stage's weight; of low-rank matrices {@link lowRankKey}. */
  readonly key: string;
  /** It is used by the row: its gradient is that of the rows. */
  readonly rows: "tokens" | "positions" | undefined;
}

export interface Parameter {
  readonly index: number;
  /** Name in the checkpoint, or in an adapter's file. */
  readonly name: string;
  /** As in the checkpoint. */
  readonly shape: readonly number[];
  readonly elements: number;
  /** Type of the copy that computes. */
  readonly dtype: FloatDType;
  readonly decay: boolean;
  readonly kind: "matrix" | "vector" | "low-rank";
  /** In the order of the stages: the first is where backward comes last. */
  readonly uses: readonly Use[];
}

/** An adapter's place in a stage. */
export interface LowRankUse {
  readonly target: LoraTarget;
  readonly unit: number;
  readonly key: string;
  /** Indices of the parameters. */
  readonly a: number;
  readonly b: number;
}

export interface Parameters {
  readonly all: readonly Parameter[];
  readonly lowRank: readonly LowRankUse[];
  /** Elements in all. */
  readonly elements: number;
  /** What of each unit trains: its parameters and their keys there, in the order of {@link all}. */
  readonly ofUnit: ReadonlyMap<number, readonly TrainedKey[]>;
  /** Index of the first unit in which anything trains. */
  readonly lowest: number;
  /** Elements that dropout masks have per token, at most, in one stage. */
  readonly dropoutWidth: number;
}

/** A parameter under the key that a unit has it by. */
export interface TrainedKey {
  readonly key: string;
  readonly parameter: Parameter;
}

/** Key of A or B among a stage's parameters. */
export function lowRankKey(key: string, which: "a" | "b"): string {
  return `${key}.lora_${which}`;
}

/** Throws ConfigError where nothing trains, UnsupportedError for what cannot be trained. */
export function trainedParameters({ spec, model }: KnownModel, settings: TrainerSettings): Parameters {
  const { lora } = settings;
  const all: Parameter[] = [];
  const add = (p: Omit<Parameter, "index" | "elements" | "decay">) => {
    const elements = p.shape.reduce((a, b) => a * b, 1);
    all.push({ ...p, index: all.length, elements, decay: decays(p.name, settings.no_decay) });
    return all.length - 1;
  };
  const whole = lora && new Set(savedWeights(lora, spec, "lora").map((w) => w.name));
  const uses = new Map<string, { uses: Use[]; matrix?: Matrix; shape: readonly number[] }>();
  for (const unit of model.units) {
    for (const [key, weight] of Object.entries(unit.stage.weights)) {
      if (whole && !whole.has(weight.name)) continue;
      const matrix = unit.matrices[key];
      const name = matrix?.name ?? vectorName(unit, key);
      const known = uses.get(name) ?? { uses: [], shape: weight.shape, ...(matrix && { matrix }) };
      known.uses.push({ unit: unit.index, key, rows: weight.rows });
      uses.set(name, known);
    }
  }
  for (const [name, { uses: used, matrix, shape }] of uses) {
    const dtype = (matrix?.dtype ?? "f32") as FloatDType;
    add({ name, shape, dtype, kind: matrix ? "matrix" : "vector", uses: used });
  }
  const lowRank = lora ? lowRankUses(loraTargets(lora, spec, "lora"), model.units, add) : [];
  if (all.length === 0) throw new ConfigError("training: no parameter trains");
  const ofUnit = new Map<number, TrainedKey[]>();
  for (const parameter of all) {
    for (const { unit, key } of parameter.uses) {
      const keys = ofUnit.get(unit) ?? [];
      keys.push({ key, parameter });
      ofUnit.set(unit, keys);
    }
  }
  return {
    ...{ all, lowRank, ofUnit, lowest: Math.min(...ofUnit.keys()) },
    elements: all.reduce((sum, p) => sum + p.elements, 0),
    dropoutWidth: lora && lora.lora_dropout > 0 ? widest(lowRank) : 0,
  };
}

/** The largest sum of input sizes of one unit's adapters. Masks are kept apart in memory, so a little room is added. */
function widest(uses: readonly LowRankUse[]): number {
  const widths = new Map<number, number>();
  for (const { unit, target } of uses) widths.set(unit, (widths.get(unit) ?? 0) + target.in + 64);
  return Math.max(0, ...widths.values());
}

function lowRankUses(
  targets: readonly LoraTarget[],
  units: readonly Unit[],
  add: (p: Omit<Parameter, "index" | "elements" | "decay">) => number,
): LowRankUse[] {
  return targets.map((target) => {
    for (const unit of units) {
      const found = Object.entries(unit.stage.weights).find(([, w]) => w.name === target.weight.name);
      if (!found || found[1].rows) continue;
      const [key] = found;
      const one = (which: "a" | "b", name: string, shape: readonly number[]) =>
        add({
          ...{ name, shape, dtype: "f32", kind: "low-rank" },
          uses: [{ unit: unit.index, key: lowRankKey(key, which), rows: undefined }],
        });
      const a = one("a", target.a, [target.r, target.in]);
      const b = one("b", target.b, [target.out, target.r]);
      return { target, unit: unit.index, key, a, b };
    }
    throw new UnsupportedError(`lora: ${target.module} is not a linear layer of a stage`);
  });
}

function vectorName(unit: Unit, key: string): string {
  const vector = unit.vectors.find((v) => v.key === key);
  if (!vector) throw new ConfigError(`${unit.name} has no parameter "${key}"`);
  return vector.source.name;
}

/** Norms and biases, by the names that transformers' Trainer goes by (get_decay_parameter_names), and GPT-2's ln_1. */
const NORM_OR_BIAS = /bias|layernorm|rmsnorm|(?:^|\.)norm(?:\.|$)|_norm(?:\.|$)|(?:^|\.)ln_\w+\./;

function decays(name: string, no_decay: readonly string[] | undefined): boolean {
  if (no_decay === undefined) return !NORM_OR_BIAS.test(name.toLowerCase());
  const bare = name.replace(/\.weight$/, "");
  return !no_decay.some((pattern) => bare.includes(pattern) || name.endsWith(pattern));
}

// What inspect finds, as data: the document of `inspect --json`. Counts what the engine planned; plans nothing itself.
import { TIERS, type Tier } from "../../memory/tiers.ts";
import { HOST } from "../../plan/plan.ts";
import type { Prepared, Skeleton } from "../../runtime/open/prepared.ts";

/** The checkpoint. All sizes in bytes. */
export interface CheckpointSummary {
  readonly path: string;
  readonly model_type: string;
  readonly parameters: number;
  readonly layers: number;
  readonly max_positions: number;
  readonly tensors: number;
  readonly files: { readonly format: string; readonly count: number; readonly bytes: number };
  /** By type, as the files hold them. */
  readonly stored: Readonly<Record<string, number>>;
  /** By type, as they will be held: vectors in float32, matrices in --dtype. */
  readonly in_memory: Readonly<Record<string, number>>;
  readonly units: { readonly count: number; readonly by_kind: Readonly<Record<string, number>> };
  readonly largest_unit: { readonly name: string; readonly bytes: number };
  /** Weights that are another one under a second name: alias -> name. */
  readonly tied: Readonly<Record<string, string>>;
  /** What the files hold that is not used, or is used otherwise than one might think. */
  readonly warnings: readonly string[];
}

/** Where everything would be. All sizes in bytes. */
export interface PlanSummary {
  readonly device: string;
  readonly context_length: number;
  readonly kv_dtype: string;
  readonly tiers: readonly {
    readonly tier: Tier;
    /** null: not limited. */
    readonly budget: number | null;
    readonly planned: number;
    readonly entries: readonly { readonly what: string; readonly bytes: number }[];
  }[];
  readonly units: Readonly<Record<Tier, number>>;
  /** Bytes that move to the computing device in every pass. */
  readonly streamed_per_pass: { readonly cpu: number; readonly disk: number };
  /** What reading from disk costs each token; null without a bandwidth. */
  readonly prediction: { readonly disk_bandwidth: number; readonly seconds_per_token: number } | null;
  readonly device_map: Readonly<Record<string, Tier>>;
  /** Stages that each device computes. */
  readonly computed_on: Readonly<Record<string, number>>;
}

export function checkpointSummary({ checkpoint, spec, model, notes }: Skeleton): CheckpointSummary {
  const stored: Record<string, number> = {};
  for (const { dtype, bytes } of checkpoint.tensors.values()) stored[dtype] = (stored[dtype] ?? 0) + bytes;
  const by_kind: Record<string, number> = {};
  for (const { stage } of model.units) by_kind[stage.kind] = (by_kind[stage.kind] ?? 0) + 1;
  const largest = model.units.reduce((a, b) => (b.bytes > a.bytes ? b : a));
  return {
    path: checkpoint.path,
    model_type: spec.model_type,
    parameters: model.parameters,
    layers: spec.num_layers,
    max_positions: spec.max_positions,
    tensors: checkpoint.tensors.size,
    files: {
      format: checkpoint.format,
      count: checkpoint.files.length,
      bytes: checkpoint.files.reduce((sum, file) => sum + file.size, 0),
    },
    stored,
    in_memory: model.bytesByDType,
    units: { count: model.units.length, by_kind },
    largest_unit: { name: largest.name, bytes: largest.bytes },
    tied: spec.tied,
    warnings: notes,
  };
}

export function planSummary(prepared: Prepared, bandwidth: number | undefined): PlanSummary {
  const { plan, budgets, device, cpu, context, kv_dtype, model } = prepared;
  const { fixed, ring, staging, unpacking } = plan;
  const weights: Record<Tier, number> = { gpu: 0, cpu: 0, disk: 0 };
  const units: Record<Tier, number> = { gpu: 0, cpu: 0, disk: 0 };
  for (const unit of model.units) {
    const home = plan.homes[unit.index] as Tier;
    if (!plan.packed.has(unit.index)) weights[home] += unit.bytes;
    units[home]++;
  }
  weights.disk = plan.bytes.disk; // as it is read: packed, where that is asked for
  const entries = (tier: Tier) => {
    const own = [{ what: "weights", bytes: weights[tier] }];
    if (tier === device.kind) {
      own.push(
        { what: "KV cache", bytes: fixed.kv },
        { what: "packed weights", bytes: plan.packed.size > 0 ? plan.streamed.cpu : 0 },
        { what: "streaming ring", bytes: ring },
        { what: "unpacking ring", bytes: unpacking },
        { what: "graph scratch", bytes: fixed.scratch },
        { what: "wide products", bytes: fixed.products ?? 0 },
        { what: "activations", bytes: fixed.activations },
        { what: "norms and biases", bytes: fixed.vectors - (plan.host?.lasting ?? 0) },
        { what: "adapter", bytes: fixed.adapter ?? 0 },
      );
    } else if (plan.host && tier === cpu.kind) {
      const { kv, ring: direct, scratch, activations, lasting } = plan.host;
      own.push(
        { what: "KV cache", bytes: kv },
        { what: "streaming ring", bytes: direct },
        { what: "graph scratch", bytes: scratch },
        { what: "activations", bytes: activations },
        { what: "norms and biases", bytes: lasting },
      );
    }
    if (tier === "cpu") {
      own.push(
        { what: "row staging", bytes: fixed.rows },
        { what: "logits", bytes: fixed.logits ?? 0 },
        { what: "staging ring", bytes: staging },
      );
      // Loading is over before the ring is taken, so the plan counts the larger of the two.
      const rest = plan.bytes.cpu - own.reduce((sum, e) => sum + e.bytes, 0);
      own.push({ what: "loading, alignment", bytes: Math.max(0, rest) });
    }
    return own.filter((entry) => entry.bytes > 0);
  };
  return {
    device: device.name,
    context_length: context,
    kv_dtype,
    tiers: TIERS.filter((tier) => plan.bytes[tier] > 0 || budgets[tier] !== undefined).map((tier) => ({
      tier,
      budget: budgets[tier] ?? null,
      planned: plan.bytes[tier],
      entries: entries(tier),
    })),
    units,
    streamed_per_pass: plan.streamed,
    prediction:
      bandwidth === undefined
        ? null
        : { disk_bandwidth: bandwidth, seconds_per_token: plan.streamed.disk / bandwidth },
    device_map: plan.device_map,
    computed_on: computedOn(prepared),
  };
}

function computedOn({ plan, device, cpu }: Prepared): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const site of plan.computeOf) {
    const { name } = site === HOST ? cpu : device;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

// What is known of a model before memory is taken for it, and what is decided then. Records, made by prepare.ts, and
// how the devices among them are closed.
import type { Adapter } from "../../adapters/index.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { disposeInTurn } from "../../base/async/cleanup.ts";
import type { Checkpoint } from "../../formats/types.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { ModelSpec } from "../../models/spec.ts";
import type { Plan } from "../../plan/plan.ts";
import type { ModelUnits, Unit } from "../../plan/units.ts";
import type { KvDType } from "../state/kv-cache.ts";

/** One way to keep what training needs beside the model. */
export interface Way {
  /** Bytes taken on each tier once the model is loaded. */
  readonly bytes: Readonly<Record<"gpu" | "cpu", number>>;
  /** Scratch memory of the largest graph on the computing device. Bytes. */
  readonly scratch: number;
  /** What a step costs under a plan, in seconds of a usual machine: the cheapest way that fits is taken. */
  cost(plan: Plan): number;
  /** The same with more memory for what spares time: looked at where this way is the cheapest. */
  variants?(): readonly Way[];
}

/** What `offload_packed` comes to where not everything fits; the plan beside it goes by what packed weights should take. */
export interface Packing {
  /** Indices of the units that are read from packed copies where they have them. */
  readonly units: ReadonlySet<number>;
  /** The plan once the packed form of each matrix is known. Throws BudgetError. */
  readonly replan: (units: readonly Unit[]) => Plan;
}

/** The skeleton of a model: nothing allocated, no device opened. */
export interface Skeleton {
  readonly dir: string;
  readonly checkpoint: Checkpoint;
  readonly config: Readonly<Record<string, unknown>>;
  readonly spec: ModelSpec;
  readonly model: ModelUnits;
  /** The adapter that is added; parameters it keeps whole are in `checkpoint` already. */
  readonly adapter: Adapter | undefined;
  /** What the files hold that is not used, each thing once: see base/notes.ts. */
  readonly notes: readonly string[];
}

export interface Prepared extends Skeleton {
  /** The CPU: computes, or converts and stages for a GPU. */
  readonly cpu: Device;
  /** Where the stages are computed. */
  readonly device: Device;
  readonly budgets: Readonly<Partial<Record<Tier, number>>>;
  readonly plan: Plan;
  readonly packing: Packing | undefined;
  readonly kv_dtype: KvDType;
  /** Tokens of one sequence that there is room for, and sequences of that length. */
  readonly context: number;
  readonly max_sequences: number;
  /** Rows of the KV cache: tokens of all sequences together. */
  readonly rows: number;
  /** Whether the device has the fused attention kernel for this model, and the CPU beside it. */
  readonly flash: boolean;
  readonly hostFlash: boolean;
  /** The way that was chosen among those of `EngineOptions.training`. */
  readonly way: Way | undefined;
}

/** Closes the computing device and the CPU, which may be the same. Throws when both have been tried. */
export function closeDevices({ cpu, device }: Pick<Prepared, "cpu" | "device">): Promise<void> {
  return disposeInTurn(device === cpu ? [cpu] : [device, cpu]);
}

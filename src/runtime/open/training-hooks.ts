// What training asks of an engine that is loaded for it. The engine knows no more of training than this.

import type { Device } from "../../backend/ggml/device.ts";
import type { Checkpoint } from "../../formats/types.ts";
import type { LimitedSource } from "../../memory/allocate.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { ModelSpec } from "../../models/spec.ts";
import type { Unit } from "../../plan/units.ts";
import type { LoaderContext } from "../weights/loader.ts";
import type { Prepared, Skeleton, Way } from "./prepared.ts";

/** What is known when the plan is made. */
export interface KnownModel extends Skeleton {
  readonly device: Device;
  readonly cpu: Device;
  readonly budgets: Readonly<Partial<Record<Tier, number>>>;
}

export interface TrainingHooks {
  /** The model that trains: without ties that an adapter breaks, with what the adapter keeps whole in its place. */
  join(base: Checkpoint, spec: ModelSpec): { readonly checkpoint: Checkpoint; readonly spec: ModelSpec };
  /** In order of preference among equals. */
  ways(known: KnownModel): readonly Way[];
  /** Whether a parameter of the checkpoint is trained, by its name there. */
  trains(name: string): boolean;
  /** Memory for a matrix that stays in RAM where the CPU computes; undefined where the device's own will do. */
  memoryFor(name: string): LimitedSource | undefined;
  /**
   * Called while the model loads, before any weight: gives trained matrices whose home is disk a place of their own that
   * can be written, and returns the units as they are read from there. `onRelease` takes what has to happen when the
   * weights are given up.
   */
  place(
    prepared: Prepared,
    units: readonly Unit[],
    ctx: LoaderContext,
    onRelease: (step: () => Promise<void>) => void,
  ): Promise<readonly Unit[]>;
}

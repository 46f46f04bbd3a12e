// Where the parts of training live, and what follows from that: which parameters have a master copy of their own, and which
// can be updated ahead.
import type { Tier } from "../../memory/tiers.ts";
import { type TrainerSettings, updatesAtOnce } from "./options.ts";
import type { Parameter } from "./parameters.ts";

/** Where the parts of training live. */
export interface TrainingHomes {
  readonly optimizer: Tier;
  readonly gradients: "cpu" | "disk";
  readonly activations: Tier;
}

/**
 * Which parameters have second places, so that they can be updated before the norm of the gradient is known: none; those
 * whose matrices are on disk; or also those whose weights are in RAM, of which RAM then holds another copy.
 */
export type Ahead = "none" | "disk" | "all";

/** Whether a parameter's master copy is apart from the one that computes. */
export function hasOwnMaster(p: Parameter, device: "cpu" | "gpu", home: Tier): boolean {
  if (p.dtype !== "f32") return true;
  return device === "gpu" && (p.kind !== "matrix" || home === "gpu");
}

/** Whether a parameter whose weights live in `home` has second places. */
export function hasDraft(
  p: Parameter,
  device: "cpu" | "gpu",
  home: Tier,
  { homes, ahead }: { homes: TrainingHomes; ahead: Ahead },
): boolean {
  if (ahead === "none" || homes.optimizer !== "disk") return false;
  if (home === "disk" || hasOwnMaster(p, device, home)) return true;
  return p.kind !== "matrix" || ahead === "all"; // weights in RAM that are their own master copy
}

/** What can be updated ahead, the most first. */
export function aheadOf(settings: TrainerSettings, { optimizer }: TrainingHomes): Ahead[] {
  const useful = optimizer === "disk" && settings.update_ahead && !updatesAtOnce(settings);
  return useful ? ["all", "disk", "none"] : ["none"];
}

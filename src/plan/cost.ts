// What a plan is predicted to cost: seconds in which weights are moved or multiplied, for one token. Pure arithmetic.
import { HOST, type Plan } from "./plan.ts";
import type { Unit } from "./units.ts";

/** Bytes of weights a second. */
export interface Rates {
  /** From RAM to the GPU. */
  readonly upload: number;
  /** Multiplied with one token by the CPU. */
  readonly product: number;
  readonly disk: number;
}

/** Bytes a second of a disk that nobody has measured: what is read decides as much for one plan as for the other. */
export const USUAL_DISK = 2 * 2 ** 30;

/** Seconds of a token, where reading goes on beside the rest and what the GPU computes in its own memory takes no time. */
export function tokenSeconds(plan: Plan, units: readonly Unit[], rates: Rates): number {
  const onHost = units.filter((u) => plan.computeOf[u.stageIndex] === HOST && !u.rowsOnly);
  const hostBytes = onHost.reduce((sum, u) => sum + u.bytes, 0);
  const hostDisk = onHost.reduce((sum, u) => sum + (plan.homes[u.index] === "disk" ? u.bytes : 0), 0);
  const uploaded = plan.streamed.cpu + plan.streamed.disk - hostDisk;
  return Math.max(plan.streamed.disk / rates.disk, uploaded / rates.upload + hostBytes / rates.product);
}

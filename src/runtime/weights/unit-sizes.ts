// What units take in the memories they may live in: what the plan is made from.
import type { Device } from "../../backend/ggml/device.ts";
import { packedBytes } from "../../memory/packing/index.ts";
import type { UnitSize } from "../../plan/placement.ts";
import type { UnitSizes } from "../../plan/plan.ts";
import type { Matrix, Unit } from "../../plan/units.ts";
import { needPacking } from "./copies/packed-copy.ts";
import { packedSize, residentSize } from "./loader.ts";
import { largestSlot, slotSize } from "./streamer.ts";

/** Bytes of a matrix in its packed form, or undefined where it has none. */
export type PackedBytes = (unit: Unit, m: Matrix) => number | undefined;

/** What a matrix is expected to take packed: weights have hardly any exceptions. */
export const expectedPacked: PackedBytes = (unit, m) =>
  needPacking([unit]).includes(m) ? packedBytes(m.ne[0] * m.ne[1], 0) : undefined;

/** What it does take, once there is a packed copy. */
export const knownPacked: PackedBytes = (_, m) => m.packed?.bytes;

/** `stayPacked`: given where units may stay in RAM packed. */
export function unitSizes(
  units: readonly Unit[],
  device: Device,
  cpu: Device,
  stayPacked?: PackedBytes,
): UnitSizes {
  const sizes = (
    memory: { host: boolean; alignment: number },
    slot: (u: Unit) => number,
    piece: (u: Unit) => number,
  ): UnitSize[] =>
    units.map((u) => {
      const packed = stayPacked && packedInRam(u, memory, stayPacked);
      return {
        index: u.index,
        name: u.name,
        // The rows of a head are computed one unit after another whatever the ring.
        ...(u.stage.kind !== "head" && { stage: u.stageIndex }),
        resident: u.owned.reduce((sum, m) => sum + residentSize(m, memory), 0),
        slot: slot(u),
        piece: piece(u),
        rowsOnly: u.rowsOnly,
        ...(packed !== undefined && { packed }),
      };
    });
  if (device.onHost) {
    return {
      gpu: [],
      cpu: sizes(
        cpu.memory,
        (u) => slotSize(u, "cpu"),
        (u) => largestSlot(u, "cpu"),
      ),
    };
  }
  // On their way to a GPU matrices pass through host memory one by one.
  const passing = (u: Unit) => largestSlot(u, "cpu");
  return {
    gpu: sizes(
      device.memory,
      (u) => slotSize(u, "gpu"),
      (u) => largestSlot(u, "gpu"),
    ),
    cpu: sizes(device.hostMemory, passing, passing),
  };
}

/** Bytes of a unit whose matrices stay packed where they can be; undefined where none can. */
function packedInRam(
  unit: Unit,
  memory: { host: boolean; alignment: number },
  bytesOf: PackedBytes,
): number | undefined {
  const sizes = unit.owned.map((m) => ({ m, packed: bytesOf(unit, m) }));
  if (sizes.every(({ packed }) => packed === undefined)) return undefined;
  return sizes.reduce(
    (sum, { m, packed }) => sum + (packed === undefined ? residentSize(m, memory) : packedSize(packed)),
    0,
  );
}

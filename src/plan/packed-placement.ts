// Decides what stays in RAM where weights may stay there packed: unpacked into a ring of their own when they are used, they
// take less room, so that less streams from disk. Pure arithmetic, as placement.ts.
import { fill, type RingRule, residentBytes, type UnitSize, unitRing } from "./placement.ts";

/** What stays, in which form, and the rings. */
export interface PackedChoice {
  /** Indices of units that stay, packed or not. */
  readonly resident: ReadonlySet<number>;
  /** Those of them that stay packed. */
  readonly packed: ReadonlySet<number>;
  /** Bytes of the ring for what streams from disk, and of the one for what is unpacked. */
  readonly ring: number;
  readonly unpacking: number;
  /** Bytes that stream from disk in a pass, packed where they can be. */
  readonly streamed: number;
}

/** Bytes of units that stream from disk when only `resident` ones stay. */
export function streamedBytes(units: readonly UnitSize[], resident: ReadonlySet<number>): number {
  const streaming = units.filter((u) => !resident.has(u.index) && !u.rowsOnly);
  return streaming.reduce((sum, u) => sum + packedSize(u), 0);
}

const packedSize = (u: UnitSize) => u.packed ?? u.resident;

/**
 * Chooses which `open` units stay within `space` bytes so that the fewest bytes stream from disk, where `gone` ones
 * stream whatever is chosen; what room is left then holds some of them unpacked, which costs no work in a pass.
 * As in chooseResident every size is tried as the largest that passes through a ring: larger ones stay unpacked.
 * Returns undefined if no two rings fit, or nothing can be packed.
 */
export function choosePacked(
  open: readonly UnitSize[],
  gone: readonly UnitSize[],
  space: number,
  rule: RingRule = unitRing,
): PackedChoice | undefined {
  const sizes = [...new Set(open.filter((u) => !u.rowsOnly).map((u) => u.slot))].sort((a, b) => a - b);
  let best: Found | undefined;
  for (const largest of sizes) {
    const whole = open.filter((u) => !u.rowsOnly && u.slot > largest);
    const rest = open.filter((u) => u.rowsOnly || u.slot <= largest);
    for (const full of [true, false]) {
      const found = choose(whole, rest, gone, space, rule, full);
      if (found && found.choice.packed.size > 0 && (!best || isBetter(found, best))) best = found;
    }
  }
  return best?.choice;
}

interface Found {
  readonly choice: PackedChoice;
  /** In the main ring reading goes on while a unit is computed. */
  readonly full: boolean;
  /** Bytes that are unpacked from RAM in a pass. */
  readonly unpacked: number;
}

function isBetter(a: Found, b: Found): boolean {
  if (a.full !== b.full) return a.full;
  return (a.choice.streamed - b.choice.streamed || a.unpacked - b.unpacked) < 0;
}

function choose(
  whole: readonly UnitSize[],
  rest: readonly UnitSize[],
  gone: readonly UnitSize[],
  space: number,
  rule: RingRule,
  full: boolean,
): Found | undefined {
  const ringOf = full ? rule.full : rule.smallest;
  const wholeBytes = whole.reduce((sum, u) => sum + u.resident, 0);
  const packable = rest.filter((u) => packedSize(u) < u.resident);
  const shrunk = rest.map((u) => ({ ...u, resident: packedSize(u) }));

  // With nothing on disk one ring is enough, and may be as large as lets unpacking go on beside computing.
  const everything = residentBytes(shrunk, new Set(rest.map((u) => u.index)));
  const alone = gone.some((u) => !u.rowsOnly) ? undefined : ringOf(packable);
  const fits = alone !== undefined && everything <= space - wholeBytes - alone;
  const unpacking = fits ? alone : rule.smallest(packable);
  const ring = fits ? 0 : ringOf([...rest, ...gone]);

  let left = space - wholeBytes - ring - unpacking;
  if (left < 0) return undefined;
  const kept = fill(shrunk, left);
  left -= residentBytes(shrunk, kept);
  const packed = new Set<number>();
  for (const unit of packable) {
    if (!kept.has(unit.index)) continue;
    const more = unit.resident - packedSize(unit);
    if (more > left) packed.add(unit.index);
    else left -= more;
  }
  const resident = new Set([...whole.map((u) => u.index), ...kept]);
  const unpacked = packable.filter((u) => packed.has(u.index)).reduce((sum, u) => sum + packedSize(u), 0);
  const streamed = streamedBytes([...rest, ...gone], kept);
  return { choice: { resident, packed, ring, unpacking, streamed }, full, unpacked };
}

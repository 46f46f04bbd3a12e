// Decides what is resident where. Pure arithmetic over bytes: no device is touched, so every case can be tested.

/** What placement needs to know of a unit. All sizes in bytes. */
export interface UnitSize {
  readonly index: number;
  readonly name: string;
  /** In device memory or RAM, when it stays. */
  readonly resident: number;
  /** In slots of the ring, when it streams. */
  readonly slot: number;
  /** The largest of those slots: one matrix. */
  readonly piece: number;
  /** Used by the row: streams through no slot. */
  readonly rowsOnly: boolean;
  /** In RAM, when it stays packed; absent where it cannot. */
  readonly packed?: number;
  /** Units of one stage have the same; absent where a unit is a stage of its own. */
  readonly stage?: number;
}

/** A choice of what stays, and the ring the rest streams through. */
export interface Choice {
  /** Indices of units that stay. */
  readonly resident: ReadonlySet<number>;
  /** Bytes of the ring; 0 when nothing streams. */
  readonly ring: number;
}

/** Bytes of resident units. */
export function residentBytes(units: readonly UnitSize[], resident: ReadonlySet<number>): number {
  return units.reduce((sum, u) => sum + (resident.has(u.index) ? u.resident : 0), 0);
}

/** How large a ring has to be for units that stream through it. Bytes. */
export interface RingRule {
  /** The least that can run them. */
  smallest(streamed: readonly UnitSize[]): number;
  /** In which reading goes on while one is computed: there is room for a matrix of the next. (A matrix takes longer to read
   * than a unit to compute, so more would only take memory from units that could stay.) */
  full(streamed: readonly UnitSize[]): number;
}

/** One unit at a time: a stage of several is computed as they come and go. */
export const unitRing: RingRule = {
  smallest: (streamed) => Math.max(0, ...cycleOf(streamed).map((u) => u.slot)),
  full: (streamed) => withNext(cycleOf(streamed), unitRing.smallest(streamed)),
};

/** All units of a stage at a time: many tokens can go through it before they make room. */
export const stageRing: RingRule = {
  smallest: (streamed) => {
    const needs = stagesOf(cycleOf(streamed)).map((own) => {
      const together = own.reduce((sum, u) => sum + u.slot, 0);
      // Slots of several units may leave a gap at the end of the ring.
      return own.length === 1 ? together : together + Math.max(...own.map((u) => u.piece));
    });
    return Math.max(0, ...needs);
  },
  full: (streamed) => withNext(cycleOf(streamed), stageRing.smallest(streamed)),
};

const cycleOf = (units: readonly UnitSize[]) => units.filter((u) => !u.rowsOnly);

function stagesOf(units: readonly UnitSize[]): UnitSize[][] {
  const stages = new Map<string, UnitSize[]>();
  for (const u of units) {
    const key = u.stage === undefined ? `unit ${u.index}` : `stage ${u.stage}`;
    const own = stages.get(key);
    if (own) own.push(u);
    else stages.set(key, [u]);
  }
  return [...stages.values()];
}

function withNext(cycle: readonly UnitSize[], smallest: number): number {
  return cycle.length < 2 ? smallest : smallest + Math.max(...cycle.map((u) => u.piece));
}

/**
 * Chooses which units stay within `space` bytes so that the fewest bytes stream per pass, spread evenly among those
 * that stream, so that reading goes on while resident ones compute.
 *
 * The ring must hold the largest unit that streams, so a very large unit (a head over a big vocabulary) may be worth
 * keeping: every size is tried as the largest that may stream. Returns undefined if not even one unit at a time fits.
 */
export function chooseResident(
  units: readonly UnitSize[],
  space: number,
  rule: RingRule = unitRing,
): Choice | undefined {
  const all = new Set(units.map((u) => u.index));
  if (residentBytes(units, all) <= space) return { resident: all, ring: 0 };
  const sizes = [...new Set(units.filter((u) => !u.rowsOnly).map((u) => u.slot))].sort((a, b) => a - b);
  let best: { choice: Choice; full: boolean; streamed: number } | undefined;
  for (const largest of sizes) {
    const kept = units.filter((u) => !u.rowsOnly && u.slot > largest);
    const open = units.filter((u) => u.rowsOnly || u.slot <= largest);
    for (const reserve of [rule.full(open), rule.smallest(open)]) {
      const left = space - reserve - kept.reduce((sum, u) => sum + u.resident, 0);
      if (left < 0) continue;
      const resident = new Set([...kept.map((u) => u.index), ...fill(open, left)]);
      const rest = units.filter((u) => !resident.has(u.index));
      // What stays decides what the ring must hold, so the ring it wants is known only now.
      const wanted = rule.full(rest);
      const ring = Math.min(wanted, space - residentBytes(units, resident));
      const streamed = rest.reduce((sum, u) => sum + (u.rowsOnly ? 0 : u.slot), 0);
      const full = ring === wanted;
      if (!best || Number(full) > Number(best.full) || (full === best.full && streamed < best.streamed)) {
        best = { choice: { resident, ring }, full, streamed };
      }
    }
  }
  return best?.choice;
}

/** The least space in which {@link chooseResident} finds a choice. Bytes. */
export function smallestSpace(units: readonly UnitSize[], rule: RingRule = unitRing): number {
  const sizes = [...new Set(units.filter((u) => !u.rowsOnly).map((u) => u.slot))];
  const needs = sizes.map((largest) => {
    const kept = units.filter((u) => !u.rowsOnly && u.slot > largest);
    const open = units.filter((u) => u.rowsOnly || u.slot <= largest);
    return rule.smallest(open) + kept.reduce((sum, u) => sum + u.resident, 0);
  });
  const everything = units.reduce((sum, u) => sum + u.resident, 0);
  return Math.min(everything, ...needs);
}

/** Indices of units that stay within `space`: an even share of every stretch of the model first, then whatever fits. */
export function fill(units: readonly UnitSize[], space: number): Set<number> {
  const cycle = units.filter((u) => !u.rowsOnly);
  let low = 0;
  let high = 1;
  let chosen = new Set<number>();
  for (let step = 0; step < 24; step++) {
    const share = (low + high) / 2;
    const attempt = spread(cycle, share);
    if (residentBytes(cycle, attempt) <= space) {
      chosen = attempt;
      low = share;
    } else high = share;
  }
  let left = space - residentBytes(cycle, chosen);
  const rest = [...cycle, ...units.filter((u) => u.rowsOnly)].filter((u) => !chosen.has(u.index));
  rest.sort(
    (a, b) => Number(a.rowsOnly) - Number(b.rowsOnly) || b.resident - a.resident || a.index - b.index,
  );
  for (const unit of rest) {
    if (unit.resident > left) continue;
    chosen.add(unit.index);
    left -= unit.resident;
  }
  return chosen;
}

/** Every unit that brings the kept bytes closer to `share` of the bytes so far. */
function spread(units: readonly UnitSize[], share: number): Set<number> {
  const chosen = new Set<number>();
  let debt = 0;
  for (const unit of units) {
    debt += unit.resident * share;
    if (debt >= unit.resident / 2) {
      chosen.add(unit.index);
      debt -= unit.resident;
    }
  }
  return chosen;
}

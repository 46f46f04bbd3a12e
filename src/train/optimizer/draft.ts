// Training state stepped before it is known whether the step will be made: what is on disk is written to a second place,
// what is in RAM is kept elsewhere as it is stepped. Whichever way it is decided, one of the two is the state, whole and at once.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { runAll, undoAfter } from "../../base/async/cleanup.ts";
import { LibraryError } from "../../base/errors.ts";
import type { Region, Store } from "../../memory/store.ts";
import { RegionFace, SidedRegion } from "../../memory/stores/sided.ts";
import type { Kept, ParameterState } from "./state.ts";

/** Name of the second places in the ledger. */
export const DRAFTS = "updates ahead";

/** Reads what counts and writes the other side. */
class DraftRegion extends RegionFace {
  readonly #sides: SidedRegion;

  constructor(sides: SidedRegion) {
    super(sides);
    this.#sides = sides;
  }

  protected get region(): Region {
    return this.#sides;
  }
  override markTorn(reason: string): void {
    this.#sides.other?.markTorn(reason);
  }
  override async write(...args: Parameters<Region["write"]>): Promise<void> {
    await this.#sides.other?.write(...args);
  }
}

/** What is written again when a draft is dropped: from what was kept, or, a copy that computes, by whoever drops it. */
class RemadeRegion extends RegionFace {
  protected readonly region: Region;

  constructor(region: Region) {
    super(region);
    this.region = region;
  }
  override markTorn(): void {}
}

/** Where second places are taken. */
export interface DraftStores {
  /** For a region on disk. */
  diskOf(region: SidedRegion): Store;
  /** For what is stepped in place. */
  readonly ram: Store;
}

/** What is stepped in place. */
interface Saved {
  readonly region: Region;
  readonly before: Region;
  /** What the updater keeps in `before`. */
  readonly kept: Kept;
}

/** Second places for one parameter's state. */
export class Draft {
  /** What an updater steps instead of the state itself. */
  readonly state: ParameterState;
  readonly #sides: readonly SidedRegion[];
  readonly #saved: readonly Saved[];
  readonly #kept = new Map<Region, Kept>();
  #begun = false;

  private constructor(state: ParameterState, sides: readonly SidedRegion[], saved: readonly Saved[]) {
    this.#sides = sides;
    this.#saved = saved;
    const face = (region: Region) =>
      region instanceof SidedRegion ? new DraftRegion(region) : new RemadeRegion(region);
    const { master, moments, working } = state;
    this.state = {
      ...state,
      master: face(master),
      moments: moments.map(face),
      ...(working && { working: { ...working, region: new RemadeRegion(working.region) } }),
      kept: this.#kept,
    };
  }

  /**
   * Takes the memory, for a state whose master copy and moments are either sided or in RAM. Throws BudgetError, IoError;
   * nothing is left behind then.
   */
  static async take(state: ParameterState, stores: DraftStores): Promise<Draft> {
    const sides: SidedRegion[] = [];
    const saved: Saved[] = [];
    const draft = new Draft(state, sides, saved);
    try {
      const faces = [draft.state.master, ...draft.state.moments];
      for (const [i, region] of [state.master, ...state.moments].entries()) {
        if (region instanceof SidedRegion) {
          region.setOther(await stores.diskOf(region).allocate(region.bytes, DRAFTS, "beside"));
          sides.push(region);
        } else {
          const before = await stores.ram.allocate(region.bytes, DRAFTS);
          const kept = { place: before.buffer as NativeBuffer, bytes: 0, torn: "" };
          saved.push({ region, before, kept });
          draft.#kept.set(faces[i] as Region, kept);
        }
      }
      return draft;
    } catch (error) {
      return await undoAfter(error, [() => draft.free()]);
    }
  }

  /** To be called before {@link state} is stepped. */
  begin(): void {
    for (const { kept } of this.#saved) Object.assign(kept, { bytes: 0, torn: "" });
    this.#begun = true;
  }

  /** The state is the one that was stepped. To be called with the step made and nobody reading. */
  keep(): void {
    for (const region of this.#sides) region.swap();
    this.#begun = false;
  }

  /**
   * The state is the one before the step, which may have been made, in part or not at all, but must be over. Only the
   * copy that computes is not: it has to be made anew. Throws LibraryError where what was there before is lost.
   */
  async drop(): Promise<void> {
    if (!this.#begun) return;
    for (const { region, kept } of this.#saved) {
      const { place, bytes, torn } = kept;
      if (torn) {
        region.markTorn(torn);
        throw new LibraryError(`${this.state.name} cannot be taken back to what it was: ${torn}`);
      }
      if (bytes > 0) await region.write(place, 0, 0, bytes);
    }
    this.#begun = false;
  }

  /** Gives the second places back. May be called twice. */
  async free(): Promise<void> {
    const others = this.#sides.map((region) => region.other);
    for (const region of this.#sides) region.setOther(undefined);
    const places = [...others, ...this.#saved.map(({ before }) => before)];
    await runAll(places.map((place) => () => place?.free()));
  }
}

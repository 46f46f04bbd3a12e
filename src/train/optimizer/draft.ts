// Training state stepped before it is known whether the step will be made: what is on disk is written to a second place,
// what is in RAM is saved first. Whichever way it is decided, one of the two is the state, whole and at once.
import type { NativeBuffer } from "../../ggml/buffer.ts";
import type { Region, Store } from "../../memory/store.ts";
import { RegionFace, SidedRegion } from "../../memory/stores/sided.ts";
import type { ParameterState } from "./state.ts";

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

/** A copy that computes: whoever drops a draft makes it anew. */
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

/** Second places for one parameter's state. */
export class Draft {
  /** What an updater steps instead of the state itself. */
  readonly state: ParameterState;
  readonly #sides: readonly SidedRegion[];
  readonly #saved: readonly { readonly region: Region; readonly before: Region }[];
  #begun = false;

  private constructor(
    state: ParameterState,
    sides: readonly SidedRegion[],
    saved: readonly { region: Region; before: Region }[],
  ) {
    this.#sides = sides;
    this.#saved = saved;
    const face = (region: Region) => (region instanceof SidedRegion ? new DraftRegion(region) : region);
    const { master, moments, working } = state;
    this.state = {
      ...state,
      master: face(master),
      moments: moments.map(face),
      ...(working && { working: { ...working, region: new RemadeRegion(working.region) } }),
    };
  }

  /**
   * Takes the memory, for a state whose master copy and moments are either sided or in RAM. Throws BudgetError, IoError;
   * nothing is left behind then.
   */
  static async take(state: ParameterState, stores: DraftStores): Promise<Draft> {
    const sides: SidedRegion[] = [];
    const saved: { region: Region; before: Region }[] = [];
    const draft = new Draft(state, sides, saved);
    try {
      for (const region of [state.master, ...state.moments]) {
        if (region instanceof SidedRegion) {
          region.setOther(await stores.diskOf(region).allocate(region.bytes, DRAFTS, "beside"));
          sides.push(region);
        } else {
          saved.push({ region, before: await stores.ram.allocate(region.bytes, DRAFTS) });
        }
      }
      return draft;
    } catch (error) {
      await draft.free().catch(() => {}); // what led here is the error to tell
      throw error;
    }
  }

  /** To be called before {@link state} is stepped. */
  async begin(): Promise<void> {
    for (const { region, before } of this.#saved) {
      await before.write(region.buffer as NativeBuffer, 0, 0, region.bytes);
    }
    this.#begun = true;
  }

  /** The state is the one that was stepped. To be called with the step made and nobody reading. */
  keep(): void {
    for (const region of this.#sides) region.swap();
    this.#begun = false;
  }

  /**
   * The state is the one before the step, which may have been made, in part or not at all, but must be over. Only the
   * copy that computes is not: it has to be made anew.
   */
  async drop(): Promise<void> {
    if (!this.#begun) return;
    for (const { region, before } of this.#saved) {
      await region.write(before.buffer as NativeBuffer, 0, 0, region.bytes);
    }
    this.#begun = false;
  }

  /** Gives the second places back. May be called twice. */
  async free(): Promise<void> {
    const others = this.#sides.map((region) => region.other);
    for (const region of this.#sides) region.setOther(undefined);
    const places = [...others, ...this.#saved.map(({ before }) => before)];
    await Promise.all(places.map((place) => place?.free()));
  }
}

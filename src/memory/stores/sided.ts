// A region that can be in two places, of which one counts: what is written to the other takes its place at once.
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Region } from "../store.ts";
import type { Tier } from "../tiers.ts";

/** Does what another region does, unless it is said otherwise. */
export abstract class RegionFace implements Region {
  readonly tier: Tier;
  readonly what: string;
  readonly bytes: number;

  constructor({ tier, what, bytes }: Region) {
    this.tier = tier;
    this.what = what;
    this.bytes = bytes;
  }

  protected abstract get region(): Region;

  get buffer(): NativeBuffer | undefined {
    return this.region.buffer;
  }
  get file(): Region["file"] {
    return this.region.file;
  }
  get torn(): string | undefined {
    return this.region.torn;
  }
  markTorn(reason: string): void {
    this.region.markTorn(reason);
  }
  read(...args: Parameters<Region["read"]>): Promise<void> {
    return this.region.read(...args);
  }
  write(...args: Parameters<Region["write"]>): Promise<void> {
    return this.region.write(...args);
  }
  free(): Promise<void> {
    return this.region.free();
  }
}

/** What users see is always the side that counts; `file` differs between them. */
export class SidedRegion extends RegionFace {
  #side: Region;
  #other: Region | undefined;

  constructor(side: Region) {
    super(side);
    this.#side = side;
  }

  protected get region(): Region {
    return this.#side;
  }

  /** The side that does not count, if there are two. */
  get other(): Region | undefined {
    return this.#other;
  }

  /** Gives it a second side, of the same size. Where there is one, it is the caller's to free. */
  setOther(region: Region | undefined): void {
    if (region && region.bytes !== this.bytes) {
      throw new Error(`${this.what}: sides of ${this.bytes} and ${region.bytes} bytes`);
    }
    this.#other = region;
  }

  /** The other side counts from now on. Nobody may be reading or writing. */
  swap(): void {
    if (!this.#other) throw new Error(`${this.what} has one side only`);
    [this.#side, this.#other] = [this.#other, this.#side];
  }

  override async free(): Promise<void> {
    await Promise.all([this.#side.free(), this.#other?.free()]);
  }
}

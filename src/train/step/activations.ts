// Inputs of stages, kept from forward to backward: all in the computing device's memory, or in a few slots there while
// the rest is on its way to and from RAM or disk. Moves bytes in the background; what they mean is not known here.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { disposeAll, runAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { BudgetError } from "../../base/errors.ts";
import { Allocation } from "../../memory/allocate.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { Region, Store } from "../../memory/store.ts";
import { borrowedRegion } from "../../memory/stores/native.ts";

/** Slots on the device where the rest is elsewhere: one is written, one computed with, one read. */
const SLOTS = 3;

export interface ActivationOptions {
  readonly device: Device;
  /** Host memory between a GPU and the store. */
  readonly cpu: Device;
  readonly ledger: Ledger;
  /** Inputs kept: one for each stage but the first. */
  readonly count: number;
  /** Bytes of one, at most. */
  readonly bytes: number;
  /** Where they go; undefined keeps all on the device. */
  readonly store: Store | undefined;
}

/** Bytes taken on the computing device and in RAM beside the store. Each input begins where direct I/O takes it. */
export function activationBytes(
  count: number,
  bytes: number,
  kind: "cpu" | "gpu",
  stored: boolean,
): { device: number; staging: number; store: number } {
  const room = wholeBlocks(bytes);
  if (!stored) return { device: count * room, staging: 0, store: 0 };
  return {
    device: Math.min(SLOTS, count) * room,
    staging: kind === "gpu" ? Math.min(SLOTS, count) * room : 0,
    store: Math.max(0, count - SLOTS) * room,
  };
}

interface Slot {
  readonly buffer: NativeBuffer;
  /** Host memory that the slot's bytes pass through; the slot itself on the CPU. */
  readonly host: NativeBuffer;
  /** For moves between the two, on a GPU. */
  readonly region: Region | undefined;
  /** Index of the activation in it. */
  holds: number;
  /** Settles when nothing moves from or to it. */
  moving: Promise<void>;
}

export class Activations {
  readonly #memory: Allocation;
  readonly #staging: Allocation | undefined;
  readonly #slots: Slot[] = [];
  readonly #regions: (Region | undefined)[] = [];
  readonly #store: Store | undefined;
  readonly #bytes: number;
  readonly #device: Device["kind"];
  #used = 0;

  private constructor(options: ActivationOptions, memory: Allocation, staging: Allocation | undefined) {
    const { count, bytes, store, device } = options;
    this.#memory = memory;
    this.#staging = staging;
    this.#store = store;
    this.#bytes = bytes;
    this.#device = device.kind;
    const slots = store ? Math.min(SLOTS, count) : count;
    const room = wholeBlocks(bytes);
    for (let i = 0; i < slots; i++) {
      const buffer = memory.buffer.part(i * room, room);
      const host = staging ? staging.buffer.part(i * room, room) : buffer;
      const region = device.onHost ? undefined : borrowedRegion("gpu", buffer, "activations");
      this.#slots.push({ buffer, host, region, holds: -1, moving: Promise.resolve() });
    }
  }

  /** Takes all memory at once. Throws BudgetError, IoError; nothing is left behind then. */
  static async open(options: ActivationOptions): Promise<Activations> {
    const { device, cpu, ledger, count, bytes, store } = options;
    const sizes = activationBytes(count, bytes, device.kind, store !== undefined);
    const memory = Allocation.take(ledger, device.kind, device.memory, sizes.device, "stage inputs");
    let staging: Allocation | undefined;
    try {
      if (sizes.staging > 0)
        staging = Allocation.take(ledger, "cpu", cpu.memory, sizes.staging, "stage inputs on their way");
      const activations = new Activations(options, memory, staging);
      if (store) {
        // The last ones are still in their slots when backward wants them.
        for (let i = 0; i < count - SLOTS; i++)
          activations.#regions[i] = await store.allocate(wholeBlocks(bytes), "stage inputs");
      }
      return activations;
    } catch (error) {
      undoNowAfter(error, [() => disposeAll([memory, staging])]);
    }
  }

  /** Bytes of each in the micro-batch that begins. Throws BudgetError where that is more than was planned for. */
  begin(bytes: number): void {
    if (bytes > this.#bytes) {
      throw new BudgetError(
        `a micro-batch whose stage inputs take ${bytes} bytes, ${this.#bytes} were planned for; set micro_batch_size and ` +
          "max_length to the largest that will come",
        { tier: this.#device, needed: bytes, budget: this.#bytes, smallest: bytes },
      );
    }
    this.#used = wholeBlocks(bytes); // nobody reads what is moved behind an input
    for (const slot of this.#slots) slot.holds = -1;
  }

  /** Memory to compute activation `index` into, once nothing of an earlier one is still on its way from there. */
  async target(index: number): Promise<NativeBuffer> {
    const slot = this.#slot(index);
    await slot.moving;
    slot.holds = index;
    return slot.buffer;
  }

  /** Activation `index` has been computed: it is brought to its home in the background. */
  computed(index: number): void {
    const region = this.#regions[index];
    if (!region) return;
    const slot = this.#slot(index);
    const length = this.#used;
    this.#move(slot, async () => {
      await slot.region?.read(slot.host, 0, 0, length);
      await region.write(slot.host, 0, 0, length);
    });
  }

  /** Begins to bring activation `index` back, if it is not here. */
  prefetch(index: number): void {
    if (index < 0) return;
    const region = this.#regions[index];
    const slot = this.#slot(index);
    if (slot.holds === index) return;
    if (!region) throw new Error(`input ${index + 1} of the stages was not kept`);
    slot.holds = index;
    const length = this.#used;
    this.#move(slot, async () => {
      await region.read(slot.host, 0, 0, length);
      await slot.region?.write(slot.host, 0, 0, length);
    });
  }

  /** The memory that holds activation `index`, once it is there. */
  async use(index: number): Promise<NativeBuffer> {
    this.prefetch(index);
    const slot = this.#slot(index);
    await slot.moving;
    return slot.buffer;
  }

  /** Waits for what is under way and forgets what went wrong with it. */
  async reset(): Promise<void> {
    for (const slot of this.#slots) {
      await slot.moving.catch(() => {});
      slot.moving = Promise.resolve();
      slot.holds = -1;
    }
  }

  #slot(index: number): Slot {
    return this.#slots[index % this.#slots.length] as Slot;
  }

  #move(slot: Slot, task: () => Promise<void>): void {
    slot.moving = slot.moving.then(task);
    slot.moving.catch(() => {}); // reported where the slot is used next
  }

  async dispose(): Promise<void> {
    await this.reset();
    await runAll([
      ...this.#regions.splice(0).map((region) => () => region?.free()),
      () => this.#memory.dispose(),
      () => this.#staging?.dispose(),
    ]);
  }

  /** Where the activations live. */
  get tier() {
    return this.#store?.tier;
  }
}

// Results of stages that are kept from forward to backward, in the computing device's memory. What is kept of a stage is
// keeping.ts; which stages, the plan says.

import type { Device } from "../../backend/ggml/device.ts";
import { disposeAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { Unit } from "../../plan/units.ts";
import type { BatchShape } from "./batch-inputs.ts";
import type { Keeping, KeptMemory } from "./stage/keeping.ts";

/** Their name in plans and in the ledger. */
export const KEPT = "kept activations";

export interface KeptActivationsOptions {
  readonly device: Device;
  readonly ledger: Ledger;
  /** Bytes for each unit that keeps its results, by its index. */
  readonly bytes: ReadonlyMap<number, number>;
  /** What a unit keeps of a micro-batch. */
  keepingOf(unit: Unit, shape: BatchShape): Keeping;
}

export class KeptActivations {
  readonly #memory = new Map<number, Allocation>();
  readonly #keepingOf: KeptActivationsOptions["keepingOf"];
  /** What forward left, by unit, until backward or the next micro-batch. */
  readonly #held = new Map<number, KeptMemory>();

  /** Takes all memory at once. Throws BudgetError; nothing is left behind then. */
  constructor({ device, ledger, bytes, keepingOf }: KeptActivationsOptions) {
    this.#keepingOf = keepingOf;
    try {
      for (const [unit, size] of bytes) {
        const taken = Allocation.take(ledger, device.kind, device.memory, wholeBlocks(size), KEPT);
        this.#memory.set(unit, taken);
      }
    } catch (error) {
      undoNowAfter(error, [() => this.dispose()]);
    }
  }

  /** A micro-batch begins: nothing of the one before is there any more. */
  begin(): void {
    this.#held.clear();
  }

  /**
   * Where forward puts what it keeps of a unit; undefined for units that are computed again in backward, and for micro-batches
   * of a shape that takes more than was planned for.
   */
  forward(unit: Unit, shape: BatchShape): KeptMemory | undefined {
    const memory = this.#memory.get(unit.index);
    if (!memory) return undefined;
    const keeping = this.#keepingOf(unit, shape);
    return keeping.bytes <= memory.buffer.size ? { keeping, memory: memory.buffer } : undefined;
  }

  /** Forward of a unit is through. */
  computed(unit: Unit, kept: KeptMemory): void {
    this.#held.set(unit.index, kept);
  }

  /** What forward kept of a unit in this micro-batch. */
  backward(unit: Unit): KeptMemory | undefined {
    return this.#held.get(unit.index);
  }

  dispose(): void {
    this.#held.clear();
    const all = [...this.#memory.values()];
    this.#memory.clear();
    disposeAll(all);
  }
}

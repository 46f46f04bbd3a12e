// The naive way to load, kept for comparison (low_cpu_mem_usage: false): every tensor is first read into memory of its
// own, then copied to its place. Needs the checkpoint's size twice.

import type { Device } from "../../backend/ggml/device.ts";
import { disposeAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { throwIfAborted } from "../../base/errors.ts";
import type { Checkpoint, TensorEntry } from "../../formats/types.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { ReadQueue } from "../../memory/io/read-queue.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { SourceFiles } from "./sources.ts";

/** Where tensors come from, and what they are read with. */
export interface StateDictSource {
  readonly cpu: Device;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  readonly ledger: Ledger;
  readonly signal: AbortSignal | undefined;
}

export class StateDict {
  readonly #tensors = new Map<string, { allocation: Allocation; shift: number }>();

  /** Reads all tensors of a checkpoint. On failure nothing stays allocated. */
  static async read(checkpoint: Checkpoint, ctx: StateDictSource): Promise<StateDict> {
    const dict = new StateDict();
    try {
      for (const entry of checkpoint.tensors.values()) {
        throwIfAborted(ctx.signal);
        if (entry.bytes === 0) continue;
        const piece = ctx.sources.piece(entry);
        const allocation = Allocation.take(ctx.ledger, "cpu", ctx.cpu.memory, piece.length, "state dict");
        dict.#tensors.set(entry.name, { allocation, shift: piece.shift });
        const { file, offset: fileOffset, length } = piece;
        const target = allocation.buffer.view(0, length);
        await ctx.queue.submit({ file, fileOffset, length, target, targetOffset: 0 }, ctx.signal);
      }
      return dict;
    } catch (error) {
      undoNowAfter(error, [() => dict.dispose()]);
    }
  }

  /** Copies bytes `start` to `start + length` of a tensor. */
  copy(entry: TensorEntry, start: number, length: number, target: ArrayBuffer): void {
    const held = this.#tensors.get(entry.name);
    if (!held) throw new Error(`${entry.name} is not in the state dict`);
    new Uint8Array(target).set(new Uint8Array(held.allocation.buffer.view(held.shift + start, length)));
  }

  dispose(): void {
    const held = [...this.#tensors.values()];
    this.#tensors.clear();
    disposeAll(held.map(({ allocation }) => allocation));
  }
}

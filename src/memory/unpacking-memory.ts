// Host memory in which packed weights are unpacked where they arrive, and from which the library computes or uploads.
// It belongs to a WebAssembly module, the only code of ours that unpacks fast enough; the ledger counts it as any other.

import { NativeBuffer } from "../backend/ggml/buffer.ts";
import { cpuMemory } from "../backend/ggml/device.ts";
import { ffi } from "../backend/ggml/loading/ffi.ts";
import { preferHugePages } from "../backend/ggml/system.ts";
import { hostBufferHandle } from "../backend/ggml/transfer.ts";
import { CheckpointError, throwIfAborted } from "../base/errors.ts";
import type { MemorySource } from "./allocate.ts";
import { PackedMemory } from "./packing/index.ts";

/** Elements unpacked before other work of the event loop gets a turn: about a millisecond. */
const TURN_ELEMENTS = 2 ** 21;

/** A buffer in such memory, which it keeps from being collected. */
class UnpackingBuffer extends NativeBuffer {
  readonly memory: PackedMemory;

  constructor(memory: PackedMemory, size: number) {
    const address = ffi().address(memory.bytes);
    preferHugePages(address, memory.bytes.length);
    const handle = hostBufferHandle(address, memory.bytes.length);
    super(cpuMemory(), handle, address, size);
    this.memory = memory;
  }
}

export interface UnpackOptions {
  /** The matrix and the file it comes from, for errors. */
  readonly name: string;
  readonly file?: string;
  readonly signal?: AbortSignal;
}

/** Runs a piece of work when it is its turn. */
export type Turn = <T>(work: () => Promise<T>) => Promise<T>;

/** One allocation of such memory. */
export class UnpackingMemory implements MemorySource {
  #memory: PackedMemory | undefined;
  readonly #turn: Turn;

  /** `turn`: given where unpacking must not run beside other work, such as the kernels of a CPU that computes. */
  constructor(turn: Turn = (work) => work()) {
    this.#turn = turn;
  }

  /** Once. Throws ConfigError for more than a WebAssembly memory can have. */
  allocate(bytes: number): NativeBuffer {
    if (this.#memory) throw new Error("this memory has been allocated");
    this.#memory = new PackedMemory(bytes);
    return new UnpackingBuffer(this.#memory, bytes);
  }

  /**
   * Unpacks a packed matrix of `elements` that takes `bytes` from byte `from` on to byte `to`; the ranges may overlap
   * if the packed one ends last. Throws CheckpointError for what is not the packed form of so many elements, AbortError.
   */
  async unpack(
    from: number,
    bytes: number,
    to: number,
    elements: number,
    options: UnpackOptions,
  ): Promise<void> {
    await this.#run((memory) => memory.unpackInTurns(from, to, elements, bytes, TURN_ELEMENTS), options);
  }

  /** As {@link unpack}, of packed bytes that are elsewhere and must stay as they are until it has ended. */
  async unpackFrom(packed: Uint8Array, to: number, elements: number, options: UnpackOptions): Promise<void> {
    await this.#run((memory) => memory.unpackFromInTurns(packed, to, elements, TURN_ELEMENTS), options);
  }

  async #run(
    turns: (memory: PackedMemory) => Iterable<void>,
    { name, file, signal }: UnpackOptions,
  ): Promise<void> {
    const memory = this.#memory;
    if (!memory) throw new Error("this memory has not been allocated");
    try {
      const left = turns(memory)[Symbol.iterator]();
      const step = () =>
        this.#turn(async () => {
          await new Promise((resolve) => setImmediate(resolve)); // reads and writes that have ended come first
          throwIfAborted(signal);
          return left.next().done;
        });
      while (!(await step()));
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      const next = "delete the copy in the offload folder: the next load makes it again";
      throw new CheckpointError(`${error.message}; ${next}`, { ...(file && { file }), tensor: name });
    }
  }
}

// Host memory in which packed weights are unpacked where they arrive, and from which the library computes or uploads.
// It belongs to a WebAssembly module, the only code of ours that unpacks fast enough; the ledger counts it as any other.
import koffi from "koffi";
import { CheckpointError, throwIfAborted } from "../errors.ts";
import { NativeBuffer } from "../ggml/buffer.ts";
import { cpuMemory } from "../ggml/device.ts";
import { library } from "../ggml/library.ts";
import type { MemorySource } from "./allocate.ts";
import { PackedMemory } from "./packing/index.ts";

/** Elements unpacked before other work of the event loop gets a turn: about a millisecond. */
const TURN_ELEMENTS = 2 ** 21;

/** A buffer in such memory, which it keeps from being collected. */
class UnpackingBuffer extends NativeBuffer {
  readonly memory: PackedMemory;

  constructor(memory: PackedMemory, size: number) {
    const address = koffi.address(memory.bytes);
    const handle = library().native.ggml_backend_cpu_buffer_from_ptr(address, memory.bytes.length);
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

/** One allocation of such memory. */
export class UnpackingMemory implements MemorySource {
  #memory: PackedMemory | undefined;

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
    { name, file, signal }: UnpackOptions,
  ): Promise<void> {
    const memory = this.#memory;
    if (!memory) throw new Error("this memory has not been allocated");
    try {
      for (const _ of memory.unpackInTurns(from, to, elements, bytes, TURN_ELEMENTS)) {
        await new Promise((resolve) => setImmediate(resolve));
        throwIfAborted(signal);
      }
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      const next = "delete the copy in the offload folder: the next load makes it again";
      throw new CheckpointError(`${error.message}; ${next}`, { ...(file && { file }), tensor: name });
    }
  }
}

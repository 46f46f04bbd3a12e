// Regions in memory the tensor library allocates: host RAM and device memory. Copies run on a thread of libuv's pool,
// in parts, so that an abort is heard.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { download, upload, zeroBuffer } from "../../backend/ggml/transfer.ts";
import { OneByOne } from "../../base/async/one-by-one.ts";
import { throwIfAborted } from "../../base/errors.ts";
import { Allocation, type MemorySource } from "../allocate.ts";
import type { Ledger } from "../ledger.ts";
import type { Region } from "../store.ts";
import { type Backing, ManagedStore, regionOver } from "./managed.ts";

/** Bytes copied between two looks at the signal. */
const PART = 16 * 2 ** 20;
/** Device memory is taken in multiples of this: Vulkan clears whole words only. Bytes. */
const DEVICE_UNIT = 256;

/** Keeps regions in host RAM, where they can be used in place. */
export class CpuStore extends ManagedStore {
  readonly tier = "cpu";
  readonly #memory: MemorySource;
  readonly #ledger: Ledger;

  /** `memory`: plain host memory, the pinned host memory of a device, or memory that compiled loops reach. */
  constructor(options: { memory: MemorySource; ledger: Ledger }) {
    super();
    this.#memory = options.memory;
    this.#ledger = options.ledger;
  }

  protected async take(bytes: number, what: string): Promise<Backing> {
    const allocation = await zeroed(this.#ledger, "cpu", this.#memory, bytes, what);
    return {
      granularity: 1,
      buffer: allocation.buffer,
      read: (target, at, offset, length, signal) =>
        copy("read", allocation.buffer, offset, target, at, length, signal),
      write: (source, at, offset, length, signal) =>
        copy("write", allocation.buffer, offset, source, at, length, signal),
      release: async () => allocation.dispose(),
    };
  }

  protected async close(): Promise<void> {}
}

/**
 * Keeps regions in the memory of a GPU. Copies run one at a time, as its drivers like them. Free regions with nothing
 * computing on the device: freeing waits for the graph that runs, and then renews the device's stream.
 */
export class GpuStore extends ManagedStore {
  readonly tier = "gpu";
  readonly #device: Device;
  readonly #ledger: Ledger;
  readonly #tasks = new OneByOne();

  constructor(options: { device: Device; ledger: Ledger }) {
    super();
    this.#device = options.device;
    this.#ledger = options.ledger;
  }

  protected async take(bytes: number, what: string): Promise<Backing> {
    const room = Math.ceil(bytes / DEVICE_UNIT) * DEVICE_UNIT;
    const allocation = await this.#tasks.run(() =>
      zeroed(this.#ledger, "gpu", this.#device.memory, room, what),
    );
    const { buffer } = allocation;
    return {
      granularity: 1,
      read: (target, at, offset, length, signal) =>
        this.#tasks.run(() => copy("read", buffer, offset, target, at, length, signal)),
      write: (source, at, offset, length, signal) =>
        this.#tasks.run(() => copy("write", buffer, offset, source, at, length, signal)),
      release: () =>
        this.#tasks.run(async () => {
          await this.#device.idle();
          allocation.dispose();
          this.#device.forgetBuffers();
        }),
    };
  }

  protected async close(): Promise<void> {
    await this.#tasks.idle();
  }
}

/** A region over memory that is held already, such as a weight's: freeing the region leaves it alone. */
export function borrowedRegion(tier: "gpu" | "cpu", memory: NativeBuffer, what: string): Region {
  return regionOver(tier, what, memory.size, {
    granularity: 1,
    ...(tier === "cpu" && { buffer: memory }),
    read: (target, at, offset, length, signal) => copy("read", memory, offset, target, at, length, signal),
    write: (source, at, offset, length, signal) => copy("write", memory, offset, source, at, length, signal),
    release: async () => {},
  });
}

async function zeroed(
  ledger: Ledger,
  tier: "gpu" | "cpu",
  memory: MemorySource,
  bytes: number,
  what: string,
) {
  const allocation = Allocation.take(ledger, tier, memory, bytes, what);
  try {
    await zeroBuffer(allocation.buffer);
    return allocation;
  } catch (error) {
    allocation.dispose();
    throw error;
  }
}

/** Between a region's buffer, any device's, and host memory. */
async function copy(
  direction: "read" | "write",
  buffer: NativeBuffer,
  offset: number,
  host: NativeBuffer,
  at: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const headers = new HeaderArena(1);
  try {
    for (let done = 0; done < length; done += PART) {
      throwIfAborted(signal);
      const part = Math.min(PART, length - done);
      headers.reset();
      const tensor = headers.bind(buffer, offset + done, "i8", [part]);
      const address = host.address(at + done);
      if (direction === "read") await download(address, tensor, 0, part);
      else await upload(tensor, address, part);
    }
  } finally {
    headers.dispose();
  }
}

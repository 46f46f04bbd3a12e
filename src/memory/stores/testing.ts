// The stores of this machine under one roof, and host memory with bytes in it, for tests. Not for the program.
import { type BufferType, liveBufferCount, type NativeBuffer } from "../../backend/ggml/buffer.ts";
import { cpuMemory, Device, listDevices } from "../../backend/ggml/device.ts";
import { Ledger } from "../ledger.ts";
import { scratchFolder } from "../testing.ts";
import type { Tier } from "../tiers.ts";
import { DiskStore, type DiskStoreOptions } from "./disk.ts";
import type { ManagedStore } from "./managed.ts";
import { CpuStore, GpuStore } from "./native.ts";
import { openStateFileCount } from "./state-file.ts";

/** Whether a GPU can be tested, and if not, why. */
export function gpuForTests(): { device: () => Device } | { missing: string } {
  const found = listDevices().find((device) => device.kind === "gpu");
  if (!found) {
    return { missing: "no GPU; with Mesa's software Vulkan installed, GGML_VK_VISIBLE_DEVICES=0 shows one" };
  }
  return { device: () => Device.open(found, { threads: 1 }) };
}

export interface OpenStore {
  readonly store: ManagedStore;
  readonly ledger: Ledger;
  close(): Promise<void>;
}

/** A store of a tier with a ledger of its own; the disk's is in a folder that `close` removes. */
export async function openStore(
  tier: Tier,
  options: { budgets?: Partial<Record<Tier, number>>; disk?: Partial<DiskStoreOptions> } = {},
): Promise<OpenStore> {
  const ledger = new Ledger(options.budgets);
  const memory = cpuMemory();
  if (tier === "cpu") {
    const store = new CpuStore({ memory, ledger });
    return { store, ledger, close: () => store.dispose() };
  }
  if (tier === "gpu") {
    const gpu = gpuForTests();
    if ("missing" in gpu) throw new Error(gpu.missing);
    const device = gpu.device();
    const store = new GpuStore({ device, ledger });
    const close = async () => {
      await store.dispose();
      await device.dispose();
    };
    return { store, ledger, close };
  }
  const { folder, remove } = await scratchFolder();
  const store = await DiskStore.open({ folder, ledger, memory, ...options.disk });
  const close = async () => {
    await store.dispose();
    await remove();
  };
  return { store, ledger, close };
}

/** The tiers that this machine can test; says on stderr why one is left out. */
export function testableTiers(): Tier[] {
  const gpu = gpuForTests();
  if (!("missing" in gpu)) return ["gpu", "cpu", "disk"];
  console.error(`gpu store not tested: ${gpu.missing}`);
  return ["cpu", "disk"];
}

let plain: BufferType | undefined;

/** Host memory that holds `bytes`; free it with `dispose`. */
export function hostBytes(bytes: Uint8Array | number): NativeBuffer {
  const length = typeof bytes === "number" ? bytes : bytes.byteLength;
  plain ??= cpuMemory();
  const buffer = plain.allocate(Math.max(length, 1));
  if (typeof bytes === "number") buffer.clear(0);
  else new Uint8Array(buffer.view()).set(bytes);
  return buffer;
}

/** What is held outside JavaScript's heap: to be the same before and after. */
export function holdings(): { buffers: number; stateFiles: number } {
  return { buffers: liveBufferCount(), stateFiles: openStateFileCount() };
}

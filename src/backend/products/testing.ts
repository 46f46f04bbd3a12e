// For tests only: a CPU device whose products all go to the library of this machine, and whether there is one.
import { Device, findDevice } from "../ggml/device.ts";
import { findProductLibrary } from "./find.ts";
import { openProducts } from "./open.ts";

/** Why tests of wide products cannot run here; `SPILLWAY_TEST_DNNL=1` makes them fail instead of being left out. */
export function productsMissing(): string | undefined {
  if (findProductLibrary().library !== undefined || process.env.SPILLWAY_TEST_DNNL) return undefined;
  return "no library of wide products (spillway doctor says how to install oneDNN)";
}

/** Runs with `SPILLWAY_DNNL` set to a value. */
export async function withProductMode<T>(value: string, run: () => Promise<T>): Promise<T> {
  const before = process.env.SPILLWAY_DNNL;
  process.env.SPILLWAY_DNNL = value;
  try {
    return await run();
  } finally {
    if (before === undefined) delete process.env.SPILLWAY_DNNL;
    else process.env.SPILLWAY_DNNL = before;
  }
}

/** A device that computes every product it can outside the tensor library. */
export async function wideDevice(threads = 2): Promise<Device> {
  const device = Device.open(findDevice("cpu"), { threads });
  await withProductMode("all", () => openProducts(device, []));
  if (!device.products) {
    await device.dispose();
    throw new Error(`wide products could not be opened: ${findProductLibrary().refused.join("; ")}`);
  }
  return device;
}

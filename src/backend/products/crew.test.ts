// The life of the crew: what it takes and gives back, and what happens when a product fails. That it does not keep a process
// is in test/products-exit.test.ts.

import { expect, test } from "vitest";
import { LibraryError } from "../../base/errors.ts";
import { describeUnless } from "../../base/testing-unproven.ts";
import { liveBufferCount } from "../ggml/buffer.ts";
import { Device, findDevice } from "../ggml/device.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { GraphMemory } from "../ggml/graph-memory.ts";
import { Graph } from "../ggml/ops.ts";
import { ProductCrew } from "./crew.ts";
import { findProductLibrary, type ProductLibrary } from "./find.ts";
import { openProducts } from "./open.ts";
import { productsMissing, wideDevice, withProductMode } from "./testing.ts";

const skip = productsMissing();
const here = () => findProductLibrary().library as ProductLibrary;

/** A graph of one product after another, with memory. */
function withProducts<T>(device: Device, use: (g: Graph) => Promise<T>): Promise<T> {
  const arena = new HeaderArena(64, { graph: true });
  const memory = new GraphMemory(device.memory, () => {});
  const g = new Graph(device, arena, { wide: true });
  const w = g.input("f32", [128, 128]);
  g.output(g.mulMat(w, g.mulMat(w, g.input("f32", [128, 300]))));
  memory.place(g.handle);
  return use(g).finally(() => {
    memory.dispose();
    arena.dispose();
  });
}

describeUnless(skip)("a crew", () => {
  test("gives everything back, though it is ended while it starts, or twice", async () => {
    const before = liveBufferCount();
    const starting = ProductCrew.start(here(), 3);
    const crew = await starting;
    await Promise.all([crew.dispose(), crew.dispose()]);
    await crew.dispose();
    expect(liveBufferCount()).toBe(before);
    await expect(crew.compute(1n, 1n, [])).rejects.toThrow(/used after|disposed/i);
  });

  test("a library that is not there: an error, and nothing is left", async () => {
    const before = liveBufferCount();
    const nowhere = { ...here(), file: "/nowhere/libdnnl.so.3" };
    await expect(ProductCrew.start(nowhere, 2)).rejects.toThrow(LibraryError);
    expect(liveBufferCount()).toBe(before);
  });

  test("ends with its device, which waits for the graph under way", async () => {
    const before = liveBufferCount();
    const device = await wideDevice();
    await withProducts(device, async (g) => {
      const ended: string[] = [];
      const run = device.compute(g).then(() => ended.push("graph"));
      const disposed = device.dispose().then(() => ended.push("device"));
      await Promise.all([run, disposed]);
      expect(ended).toEqual(["graph", "device"]);
    });
    expect(liveBufferCount()).toBe(before);
  });

  test("a product that the library refuses is an error with what to do, and the next graph is computed", async () => {
    const device = await wideDevice();
    try {
      await withProducts(device, async (g) => {
        const [first] = g.products;
        const broken = { ...g.products[1], m: 4, lda: 1 } as (typeof g.products)[0]; // rows that overlap
        const wrong = { handle: g.handle, products: [first as typeof broken, broken] };
        await expect(device.compute(wrong)).rejects.toThrow(
          /computing failed: .*SPILLWAY_DNNL=off avoids it/,
        );
        await device.compute(g);
      });
    } finally {
      await device.dispose();
    }
  });

  test("counts what it takes", () => {
    expect(ProductCrew.bytes(2) - ProductCrew.bytes(1)).toBeGreaterThan(8 * 2 ** 20);
    expect(ProductCrew.bytes(2) - ProductCrew.bytes(1)).toBeLessThan(16 * 2 ** 20);
  });
});

describeUnless(skip)("a device", () => {
  test("has none where they are off, and all that can where they are all", async () => {
    const device = Device.open(findDevice("cpu"), { threads: 1 });
    try {
      await withProductMode("off", () => openProducts(device, ["f32"]));
      expect(device.products).toBeUndefined();
      expect(device.wideArithmetic("result", "f32", 4096, 4096, 4096)).toBeUndefined();
      await withProductMode("all", () => openProducts(device, ["f32"]));
      expect(device.wideArithmetic("result", "f32", 1, 16, 16)).toBe("f32");
    } finally {
      await device.dispose();
    }
  });
});

// Changing a graph between two runs of it.
import koffi from "koffi";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { NativeBuffer } from "./buffer.ts";
import { Device, listDevices } from "./device.ts";
import { HeaderArena } from "./graph.ts";
import { GraphMemory } from "./graph-memory.ts";
import { dataOf, headersCanChange, setData, setViewRows } from "./header-fields.ts";
import { Graph } from "./ops.ts";

let device: Device;
let arena: HeaderArena;
let buffer: NativeBuffer;

beforeAll(() => {
  const cpu = listDevices({ gpu: false })[0];
  if (!cpu) throw new Error("no CPU");
  device = Device.open(cpu, { threads: 1 });
  arena = new HeaderArena(16, { graph: true });
  buffer = device.memory.allocate(4096);
});
afterAll(async () => {
  buffer.dispose();
  arena.dispose();
  await device.dispose();
});

test("the layout of this library's headers is the one that is known", () => {
  expect(headersCanChange(device)).toBe(true);
});

test("a copy goes where its result lies now, and a view has the rows it has now", async () => {
  const values = new Float32Array(buffer.view());
  values.fill(0).set([1, 2, 3, 4]);
  const memory = new GraphMemory(device.memory, () => {});
  const g = new Graph(device, arena);
  const source = g.bind(buffer, 0, "f32", [4]);
  const copy = g.copy(source, g.bind(buffer, 64, "f32", [4]));
  g.expand(copy);
  memory.place(g.handle);
  await device.compute(g.handle);
  expect(dataOf(copy)).toBe(buffer.address(64));
  setData(copy, buffer.address(128));
  values.set([5, 6, 7, 8]);
  await device.compute(g.handle);
  expect(dataOf(copy)).toBe(buffer.address(128));
  expect([...values.slice(16, 20)]).toEqual([1, 2, 3, 4]);
  expect([...values.slice(32, 36)]).toEqual([5, 6, 7, 8]);

  const view = g.view(source, [2, 1], [8], 0);
  setViewRows(view, 2);
  expect([0, 1, 2, 3].map((i) => koffi.decode(view.handle, 16 + 8 * i, "int64_t"))).toEqual([2, 2, 1, 1]);
  memory.dispose();
});

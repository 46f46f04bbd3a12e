// Rows that are copied out of a tensor land where they were asked to, and nowhere else.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { LibraryError } from "../../base/errors.ts";
import type { NativeBuffer } from "./buffer.ts";
import { Device, findDevice } from "./device.ts";
import { HeaderArena } from "./graph.ts";
import { library } from "./library.ts";
import type { Tensor } from "./tensor.ts";
import { downloadRows } from "./transfer.ts";

let cpu: Device;
let arena: HeaderArena;
let buffer: NativeBuffer;

/** A tensor f32 [width, rows] that counts up from 1. */
function counting(width: number, rows: number): Tensor {
  buffer = cpu.memory.allocate(width * rows * 4);
  new Float32Array(buffer.view(0, width * rows * 4)).forEach((_, i, all) => {
    all[i] = i + 1;
  });
  return arena.bind(buffer, 0, "f32", [width, rows]);
}

beforeEach(() => {
  cpu = Device.open(findDevice("cpu"), { threads: 1 });
  arena = new HeaderArena(4);
});
afterEach(async () => {
  vi.restoreAllMocks();
  arena.dispose();
  buffer.dispose();
  await cpu.dispose();
});

test("some rows of a tensor, spread over wider ones", async () => {
  const to = new Float32Array(12).fill(-1);
  await downloadRows(cpu, to, counting(2, 4), { first: 1, count: 3, at: 1, stride: 4 });
  expect([...to]).toEqual([-1, 3, 4, -1, -1, 5, 6, -1, -1, 7, 8, -1]);
  await downloadRows(cpu, to, counting(2, 4), { first: 4, count: 0, at: 99, stride: 4 });
});

test("many go on a thread of the pool, few at once; both are the same bytes", async () => {
  const [width, rows] = [1024, 300];
  const tensor = counting(width, rows);
  const onThread = vi.spyOn(library().native.ggml_backend_tensor_get_2d, "async");
  for (const [count, calls] of [
    [200, 0],
    [300, 1],
  ] as const) {
    const to = new Float32Array(width * rows);
    await downloadRows(cpu, to, tensor, { first: 0, count, at: 0, stride: width });
    expect(onThread).toHaveBeenCalledTimes(calls);
    expect([to[0], to[width * count - 1], to[width * count] ?? 0]).toEqual([1, width * count, 0]);
  }
});

test("what lies outside of the tensor or of the memory is refused before the library sees it", async () => {
  const tensor = counting(2, 4);
  const to = new Float32Array(8);
  const copy = (first: number, count: number, at: number, stride: number) =>
    downloadRows(cpu, to, tensor, { first, count, at, stride });
  for (const range of [
    copy(0, 5, 0, 2),
    copy(-1, 1, 0, 2),
    copy(0, 4, 1, 2),
    copy(0, 2, -1, 2),
    copy(0, 2, 0, 1),
  ])
    await expect(range).rejects.toThrow(LibraryError);
});

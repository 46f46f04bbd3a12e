// Native things and when they end: buffers, headers, graph memory and devices. Disposing twice is fine, use afterwards
// is an error, and none of it reaches freed memory.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ConfigError, DisposedError, GraphError, LibraryError } from "../../base/errors.ts";
import { liveBufferCount, PAGE } from "./buffer.ts";
import { cpuMemory, Device, findDevice, listDevices } from "./device.ts";
import { DTYPE_NAMES, DTYPES } from "./dtypes.ts";
import { HeaderArena } from "./graph.ts";
import { GraphMemory, liveGraphMemoryCount } from "./graph-memory.ts";
import { library } from "./library.ts";
import { Graph } from "./ops.ts";

let device: Device;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());

describe("a buffer", () => {
  test("of the host starts at a page, and holds what is written", () => {
    using buffer = cpuMemory().allocate(10_000);
    expect(buffer.address() % BigInt(PAGE)).toBe(0n);
    buffer.clear(7);
    const bytes = new Uint8Array(buffer.view());
    expect(bytes).toHaveLength(10_000);
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    bytes[9_999] = 1;
    expect(new Uint8Array(buffer.view(9_998, 2))).toEqual(Uint8Array.of(7, 1));
  });

  test("is counted until it is disposed, once", () => {
    const before = liveBufferCount();
    const buffer = cpuMemory().allocate(1);
    expect(liveBufferCount()).toBe(before + 1);
    buffer.dispose();
    buffer.dispose();
    expect(liveBufferCount()).toBe(before);
  });

  test("is not used after dispose", () => {
    const buffer = cpuMemory().allocate(64);
    buffer.dispose();
    expect(() => buffer.handle).toThrow(DisposedError);
    expect(() => buffer.address()).toThrow(DisposedError);
    expect(() => buffer.view()).toThrow(DisposedError);
    expect(() => buffer.clear()).toThrow(DisposedError);
    const arena = new HeaderArena(1);
    expect(() => arena.bind(buffer, 0, "f32", [4])).toThrow(DisposedError);
    arena.dispose();
  });

  test.each([
    [-1, 4],
    [0, 65],
    [60, 8],
    [0, -1],
  ])("is not viewed outside: %d bytes in, %d long", (offset, length) => {
    using buffer = cpuMemory().allocate(64);
    expect(() => buffer.view(offset, length)).toThrow(LibraryError);
  });

  test("larger than there is memory: an error, not the end", () => {
    const before = liveBufferCount();
    expect(() => cpuMemory().allocate(2 ** 52)).toThrow(LibraryError);
    expect(liveBufferCount()).toBe(before);
  });
});

describe("headers", () => {
  test("lie inside their buffer or are refused", () => {
    using buffer = cpuMemory().allocate(64);
    const arena = new HeaderArena(8);
    expect(arena.bind(buffer, 0, "f32", [16]).bytes).toBe(64);
    expect(() => arena.bind(buffer, 4, "f32", [16])).toThrow(
      /at byte 4 does not fit in a buffer of 64 bytes/,
    );
    expect(() => arena.bind(buffer, -4, "f32", [4])).toThrow(GraphError);
    expect(() => arena.bind(buffer, 0, "q8_0", [33])).toThrow(GraphError);
    arena.dispose();
  });

  test("are no more than the arena holds, refused ones included", () => {
    const arena = new HeaderArena(2);
    arena.header("f32", [1]);
    arena.header("f32", [1]);
    expect(() => arena.header("f32", [1])).toThrow(/more than 2 tensors/);
    arena.reset();
    arena.header("f32", [1]);
    arena.dispose();
  });

  test("are not used after dispose", () => {
    const arena = new HeaderArena(4, { graph: true });
    const g = new Graph(device, arena);
    const a = g.input("f32", [4]);
    arena.dispose();
    arena.dispose();
    expect(() => arena.reset()).toThrow(GraphError);
    expect(() => g.input("f32", [4])).toThrow(GraphError);
    expect(() => g.add(a, a)).toThrow(GraphError);
  });

  test("are made again and again in one arena", () => {
    const arena = new HeaderArena(4, { graph: true });
    for (let i = 0; i < 100; i++) {
      arena.reset();
      const g = new Graph(device, arena);
      const a = g.input("f32", [4]);
      g.output(g.add(a, a));
    }
    arena.dispose();
  });
});

describe("graph memory", () => {
  /** A graph that needs about `n` floats twice. */
  function graphOf(arena: HeaderArena, n: number): Graph {
    arena.reset();
    const g = new Graph(device, arena);
    const a = g.input("f32", [n]);
    g.output(g.scale(g.add(a, a), 2));
    return g;
  }

  test("is entered in the account before it grows, and only then", () => {
    const before = liveGraphMemoryCount();
    const arena = new HeaderArena(16, { graph: true });
    const entries: number[] = [];
    const memory = new GraphMemory(device.memory, (bytes) => entries.push(bytes));
    expect(memory.place(graphOf(arena, 1000).handle)).toBe(true);
    expect(memory.place(graphOf(arena, 10).handle)).toBe(false);
    expect(memory.place(graphOf(arena, 4000).handle)).toBe(true);
    expect(memory.place(graphOf(arena, 1000).handle)).toBe(false);
    expect(entries).toHaveLength(2);
    expect(entries[0]).toBeGreaterThanOrEqual(4000);
    expect(entries[1]).toBeGreaterThanOrEqual(16_000);
    memory.dispose();
    memory.dispose();
    expect(liveGraphMemoryCount()).toBe(before);
    arena.dispose();
  });

  test("that was refused does not stop smaller graphs", async () => {
    const arena = new HeaderArena(16, { graph: true });
    const memory = new GraphMemory(device.memory, (bytes) => {
      if (bytes > 20_000) throw new RangeError("over budget");
    });
    memory.place(graphOf(arena, 100).handle);
    expect(() => memory.place(graphOf(arena, 100_000).handle)).toThrow("over budget");
    const g = graphOf(arena, 100);
    memory.place(g.handle);
    await device.compute(g.handle);
    memory.dispose();
    arena.dispose();
  });

  test("measures without taking anything", () => {
    const arena = new HeaderArena(16, { graph: true });
    const memory = new GraphMemory(device.memory, () => {
      throw new Error("nothing was to be taken");
    });
    expect(memory.measure(graphOf(arena, 2 ** 38).handle)).toBeGreaterThanOrEqual(2 ** 40);
    memory.dispose();
    expect(() => memory.measure(1n)).toThrow(LibraryError);
    arena.dispose();
  });
});

describe("a device", () => {
  test("is found by name", () => {
    expect(findDevice("CPU").kind).toBe("cpu");
    expect(listDevices({ gpu: false }).map((d) => d.name)).toEqual(["cpu"]);
    expect(() => findDevice("tpu")).toThrow(ConfigError);
    expect(() => findDevice("tpu")).toThrow(/device "tpu" was not found; there are: .*cpu \(/);
    expect(() => findDevice("")).toThrow(ConfigError);
  });

  test("computes graphs in the order they came, and waits for the last before it ends", async () => {
    const own = Device.open(findDevice("cpu"), { threads: 2 });
    const arena = new HeaderArena(64, { graph: true });
    const memory = new GraphMemory(own.memory, () => {});
    const g = new Graph(own, arena);
    let x = g.input("f32", [256, 256]);
    for (let i = 0; i < 20; i++) x = g.mulMat(x, x);
    g.output(x);
    memory.place(g.handle);
    const ended: number[] = [];
    const runs = [0, 1, 2].map((i) => own.compute(g.handle).then(() => ended.push(i)));
    await own.dispose();
    expect(ended).toEqual([0, 1, 2]);
    await Promise.all(runs);
    await own.dispose();
    expect(() => own.backend).toThrow(DisposedError);
    await expect(own.compute(g.handle)).rejects.toThrow(DisposedError);
    memory.dispose();
    arena.dispose();
  });
});

test("the library's types are those of the table", () => {
  const { native } = library();
  for (const name of DTYPE_NAMES) {
    expect(native.ggml_type_name(DTYPES[name].id).toLowerCase()).toBe(name);
  }
});

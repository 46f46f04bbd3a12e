// The compiled loop against the slow one, bit for bit, wherever its streams lie and however many threads share it; and
// threads that die. What steps are made of it is updater.test.ts.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { LibraryError } from "../../base/errors.ts";
import { sharedMemory, sharedSpace } from "../../memory/shared-memory.ts";
import { holdings, hostBytes, openStore } from "../../memory/stores/testing.ts";
import { AdamwCrew } from "./adamw-crew.ts";
import { COPIED_CHUNK, PLAIN_CHUNK } from "./adamw-worker.ts";
import { AdamW } from "./rules/adamw.ts";
import { bf16Reference, loopReference } from "./rules/reference.ts";
import type { LoopConstants } from "./rules/rule.ts";
import { regionsOf } from "./state.ts";
import {
  allBytes,
  floats,
  gradientValues,
  hostGradient,
  makeState,
  openCpu,
  weightValues,
} from "./testing.ts";
import { StateUpdater } from "./updater.ts";

const constants = new AdamW({ betas: [0.9, 0.95] }).loopConstants({
  ...{ lr: 1e-2, weight_decay: 0.1, step: 3, gradScale: 0.37 },
});

/** Where a stream may lie; bytes beside it are checked to stay what they are. */
type Place = "shared" | "plain";
const GUARD = 64;

class Stream {
  readonly #buffer: NativeBuffer;
  readonly #bytes: number;
  /** `shift`: bytes by which it misses a multiple of 16. */
  constructor(place: Place, values: Float32Array | Uint16Array, shift = 0) {
    this.#bytes = values.byteLength;
    const size = GUARD + shift + this.#bytes + GUARD;
    this.#buffer = place === "shared" ? sharedMemory.allocate(size, "any") : hostBytes(size);
    this.address = this.#buffer.address(GUARD + shift);
    this.#view.fill(0xa5);
    this.#inner(shift).set(new Uint8Array(values.buffer, values.byteOffset, this.#bytes));
    this.shift = shift;
  }
  readonly address: bigint;
  readonly shift: number;

  get #view(): Uint8Array {
    return new Uint8Array(this.#buffer.view());
  }

  #inner(shift: number): Uint8Array {
    return this.#view.subarray(GUARD + shift, GUARD + shift + this.#bytes);
  }

  /** What it holds now; throws if anything was written beside it. */
  bytes(): Buffer {
    const outside = [
      ...this.#view.subarray(0, GUARD + this.shift),
      ...this.#view.subarray(GUARD + this.shift + this.#bytes),
    ];
    expect(outside.every((byte) => byte === 0xa5)).toBe(true);
    return Buffer.from(this.#inner(this.shift));
  }

  dispose(): void {
    this.#buffer.dispose();
  }
}

interface Values {
  readonly w: Float32Array;
  readonly g: Float32Array;
  readonly m: Float32Array;
  readonly v: Float32Array;
}

function values(n: number): Values {
  const [w, g, m] = [weightValues(n, 1), gradientValues(n, 2), gradientValues(n, 3)];
  return { w, g, m, v: m.map((value) => value * value) };
}

const raw = (array: Float32Array | Uint16Array) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/** One run of the loop: weights, gradient, moments, working copy. */
async function run(
  crew: AdamwCrew,
  { w, g, m, v }: Values,
  options: { places?: Place[]; shift?: number; copy?: boolean; constants?: LoopConstants } = {},
): Promise<Buffer[]> {
  const { places = [], shift = 0, copy = true } = options;
  const given = [w, g, m, v, ...(copy ? [new Uint16Array(w.length)] : [])];
  const streams = given.map((array, i) => new Stream(places[i] ?? "shared", array, shift));
  try {
    const [sw, sg, sm, sv, sc] = streams as [Stream, Stream, Stream, Stream, Stream?];
    await crew.run({
      count: w.length,
      weights: sw.address,
      gradient: sg.address,
      moments: [sm.address, sv.address],
      copy: sc?.address,
      constants: options.constants ?? constants,
    });
    return streams.map((stream) => stream.bytes());
  } finally {
    for (const stream of streams) stream.dispose();
  }
}

/** What {@link run} has to give. */
function expected({ w, g, m, v }: Values, using = constants): Buffer[] {
  const [w2, m2, v2] = [w.slice(), m.slice(), v.slice()];
  loopReference(w2, g, m2, v2, using);
  return [raw(w2), raw(g), raw(m2), raw(v2), raw(bf16Reference(w2))];
}

async function withCrew(threads: number, task: (crew: AdamwCrew) => Promise<void>, source?: string) {
  const crew = new AdamwCrew(threads, source);
  crew.join();
  try {
    await task(crew);
  } finally {
    await crew.leave();
  }
}

/** Of arrays this long vitest's own comparison takes seconds. */
function expectSame(actual: readonly Buffer[], wanted: readonly Buffer[]): void {
  expect(actual.length).toBe(wanted.length);
  for (const [i, bytes] of actual.entries()) expect(bytes.equals(wanted[i]!), `stream ${i}`).toBe(true);
}

let before: ReturnType<typeof holdings>;
beforeEach(() => {
  before = holdings();
});
afterEach(() => expect(holdings()).toEqual(before));

describe("the loop", () => {
  test("rounds as the reference does, with and without elements beside whole fours", async () => {
    await withCrew(2, async (crew) => {
      for (const n of [1, 2, 3, 4, 5, 7, 8, 1023, COPIED_CHUNK + 3, 3 * PLAIN_CHUNK + 1]) {
        const all = values(n);
        expectSame(await run(crew, all), expected(all));
        expectSame(await run(crew, all, { copy: false, shift: 4 }), expected(all).slice(0, 4));
      }
    });
  });

  test("a gradient that is not scaled is taken as it is", async () => {
    const unscaled = new AdamW().loopConstants({ lr: 1e-3, weight_decay: 0, step: 1 });
    expect(unscaled[0]).toBe(1);
    const all = values(1001);
    await withCrew(1, async (crew) => {
      expectSame(await run(crew, all, { constants: unscaled }), expected(all, unscaled));
    });
  });

  test("the bf16 copy of every kind of number is ggml's", async () => {
    // With lr 0 and no decay the weights stay; those with both neighbours of a tie, and what is no finite number.
    const words = [
      ...[0x00000000, 0x80000000, 0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0xbf818000],
      ...[0x00000001, 0x00008000, 0x00018000, 0x007fffff, 0x807fffff, 0x00800000],
      ...[0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x7f7f8000, 0x7f7f7fff],
    ];
    const still: LoopConstants = [1, 0.9, 0.1, 0.9, 0.1, 1, 0, 1, 1, 1];
    await withCrew(1, async (crew) => {
      for (const n of [words.length, words.length - 1, words.length - 3]) {
        const w = new Float32Array(Uint32Array.from(words.slice(0, n)).buffer);
        const zeros = () => new Float32Array(n);
        const [weights, , , , copy] = await run(
          crew,
          { w, g: zeros(), m: zeros(), v: zeros() },
          { constants: still },
        );
        expect(weights).toEqual(raw(w));
        expect(copy).toEqual(raw(bf16Reference(w)));
      }
    });
  });

  test("gives the same bits wherever its streams lie and however many threads share them", async () => {
    const all = values(2 * PLAIN_CHUNK + 7);
    const wanted = expected(all);
    for (const threads of [1, 2, 5]) {
      await withCrew(threads, async (crew) => {
        for (let mask = 0; mask < 32; mask += threads === 2 ? 1 : 31) {
          const places = [0, 1, 2, 3, 4].map((i): Place => ((mask >> i) & 1 ? "plain" : "shared"));
          expectSame(await run(crew, all, { places, shift: 4 }), wanted);
        }
      });
    }
  });

  test("works in several memories at a time", async () => {
    // Address space alone: nothing of it is touched.
    const filling = sharedMemory.allocate(4 * 2 ** 30 - 32 * 2 ** 20, "any");
    const inFirst = sharedMemory.allocate(2 ** 20, "any");
    const inSecond = sharedMemory.allocate(64 * 2 ** 20, "any");
    expect(sharedSpace(inSecond.address(), 1)).not.toBe(sharedSpace(filling.address(), 1));
    const all = values(5000);
    await withCrew(2, async (crew) => {
      expectSame(await run(crew, all), expected(all));
      filling.dispose();
      inFirst.dispose();
      expectSame(await run(crew, all), expected(all));
    });
    inSecond.dispose();
  });
});

describe("threads", () => {
  const all = values(100);
  const waits = `const { parentPort } = require("node:worker_threads"); parentPort.postMessage("ready");`;

  test.each([
    ["throw", `throw new Error("no such luck");`, /could not be started \(no such luck\)/],
    ["end", `process.exit(3);`, /could not be started \(it ended with code 3\)/],
    ["are not JavaScript", `this is not`, /could not be started/],
  ])("that %s at once are an error, and can be tried again", async (_, source, message) => {
    await withCrew(
      2,
      async (crew) => {
        await expect(crew.start()).rejects.toThrow(LibraryError);
        await expect(run(crew, all)).rejects.toThrow(message);
      },
      source,
    );
  });

  test.each([
    ["throw", `${waits} parentPort.on("message", () => { throw new Error("no such luck"); });`],
    ["end", `${waits} parentPort.on("message", () => process.exit(3));`],
    [
      "use up their memory",
      `${waits} parentPort.on("message", () => { const all = []; for (;;) all.push([all]); });`,
    ],
  ])("that %s at work are an error, not a wait without end", async (_, source) => {
    await withCrew(2, async (crew) => expect(run(crew, all)).rejects.toThrow(/died at work/), source);
  });

  test("one that dies leaves its state torn; the next step starts new ones", async () => {
    const cpu = openCpu();
    const ram = await openStore("cpu");
    const rule = new AdamW();
    const state = await makeState(rule, weightValues(1000), { master: ram.store });
    const gradient = hostGradient(gradientValues(1000, 2));
    const params = { lr: 0.1, weight_decay: 0, step: 1 };
    const crew = new AdamwCrew(2, `${waits} parentPort.on("message", () => process.exit(3));`);
    const broken = new StateUpdater({ cpu, ledger: ram.ledger, rule, crew });
    await expect(broken.step(state, gradient, params)).rejects.toThrow(LibraryError);
    for (const region of regionsOf(state)) expect(region.torn).toMatch(/died at work/);
    await broken.dispose();
    // Threads that do not even start leave it as it was.
    const [master, ...moments] = regionsOf(state);
    using weights = hostBytes(new Uint8Array(raw(weightValues(1000))));
    using zeros = hostBytes(4000);
    await master!.write(weights, 0, 0, 4000);
    for (const moment of moments) await moment.write(zeros, 0, 0, 4000);
    const none = new StateUpdater({ cpu, ledger: ram.ledger, rule, crew: new AdamwCrew(1, "throw 1") });
    await expect(none.step(state, gradient, params)).rejects.toThrow(/could not be started/);
    await none.dispose();
    expect(floats((await allBytes(state))[0], 1000)).toEqual(weightValues(1000));
    gradient.buffer.dispose();
    for (const region of regionsOf(state)) await region.free();
    await ram.close();
    await cpu.dispose();
  });

  test("are there from the first job to the last user's end, one crew for a device", async () => {
    const device = Device.open(findDevice("cpu"), { threads: 1 });
    const crew = AdamwCrew.of(device);
    expect(AdamwCrew.of(device)).toBe(crew);
    const threads = () =>
      process.getActiveResourcesInfo().filter((name) => name === "Worker" || name === "MessagePort").length;
    const idle = threads();
    crew.join();
    crew.join();
    expectSame(await run(crew, all), expected(all));
    await crew.leave();
    expectSame(await run(crew, all), expected(all));
    await crew.leave();
    expect(threads()).toBe(idle);
    crew.join(); // and can begin anew
    expectSame(await run(crew, all), expected(all));
    await crew.leave();
    await device.dispose();
  });
});

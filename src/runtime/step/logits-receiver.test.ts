// Logits come to host memory in as few transfers as there are blocks of them, within the budget of RAM.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { library } from "../../backend/ggml/library.ts";
import { BudgetError } from "../../base/errors.ts";
import { Ledger } from "../../memory/ledger.ts";
import { LogitsMemory } from "./logits-memory.ts";
import { LogitsReceiver, type PassLogits } from "./logits-receiver.ts";
import type { HeadResult } from "./stage-graph.ts";

const VOCAB = 6;
const ROW = VOCAB * 4;
/** The score of an id after a wanted token. */
const score = (token: number, id: number) => 100 * token + id;

let cpu: Device;
let arena: HeaderArena;
let buffers: NativeBuffer[];
beforeEach(() => {
  cpu = Device.open(findDevice("cpu"), { threads: 1 });
  arena = new HeaderArena(16);
  buffers = [];
});
afterEach(async () => {
  vi.restoreAllMocks();
  arena.dispose();
  for (const buffer of buffers) buffer.dispose();
  await cpu.dispose();
});

/** What a head gives of `tokens` wanted tokens, the first being `from`: ids `first` and on of the vocabulary. */
function result(first: number, ids: number, from: number, tokens: number): HeadResult {
  const buffer = cpu.memory.allocate(ids * tokens * 4);
  buffers.push(buffer);
  const values = new Float32Array(buffer.view(0, ids * tokens * 4));
  for (let t = 0; t < tokens; t++)
    for (let id = 0; id < ids; id++) values[t * ids + id] = score(from + t, first + id);
  return { logits: arena.bind(buffer, 0, "f32", [ids, tokens]), first };
}

/** A receiver whose function notes token, logits and the bytes in the ledger as it is called. */
function receiving(options: { budget?: number; headWhole?: boolean; wanted: readonly number[] }) {
  const ledger = new Ledger({ cpu: options.budget ?? Number.POSITIVE_INFINITY });
  const given: { token: number; logits: number[]; entered: number }[] = [];
  const transfers = vi.spyOn(library().native, "ggml_backend_tensor_get_2d");
  const pass: PassLogits = {
    wanted: Int32Array.from(options.wanted),
    start: 1000,
    sink: (token, logits) => given.push({ token, logits: [...logits], entered: ledger.used("cpu") }),
  };
  const receiver = new LogitsReceiver(
    {
      vocab: VOCAB,
      ledger,
      memory: new LogitsMemory(ledger, VOCAB),
      headWhole: options.headWhole ?? true,
      everythingResident: true,
    },
    pass,
  );
  return { receiver, given, ledger, transfers };
}

const rows = (...tokens: number[]) =>
  tokens.map((t) => Array.from({ length: VOCAB }, (_, id) => score(t, id)));

describe("logits for a function", () => {
  test("of several sequences come in one transfer, in memory that is entered meanwhile", async () => {
    const { receiver, given, ledger, transfers } = receiving({ wanted: [3, 5, 9] });
    await receiver.receive(cpu, [result(0, VOCAB, 0, 3)], { first: 0, count: 3 });
    expect(given.map(({ token }) => token)).toEqual([1003, 1005, 1009]);
    expect(given.map(({ logits }) => logits)).toEqual(rows(0, 1, 2));
    expect(transfers).toHaveBeenCalledOnce();
    expect(given.map(({ entered }) => entered)).toEqual([3 * ROW, 3 * ROW, 3 * ROW]);
    ledger.assertEmpty();
  });

  test("of one sequence take what the plan has for one", async () => {
    const { receiver, given, transfers } = receiving({ wanted: [7] });
    await receiver.receive(cpu, [result(0, VOCAB, 0, 1)], { first: 0, count: 1 });
    expect(given).toEqual([{ token: 1007, logits: rows(0)[0], entered: 0 }]);
    expect(transfers).toHaveBeenCalledOnce();
  });

  test("blocks of the vocabulary are put side by side, one transfer each", async () => {
    const { receiver, given, transfers } = receiving({ wanted: [0, 1, 2] });
    const results = [result(0, 4, 0, 3), result(4, 2, 0, 3)];
    await receiver.receive(cpu, results, { first: 0, count: 3 });
    expect(given.map(({ logits }) => logits)).toEqual(rows(0, 1, 2));
    expect(transfers).toHaveBeenCalledTimes(2);
  });

  test("where the budget has no room for all they come a few at a time, and one by one where it has none", async () => {
    for (const [room, transfersMade] of [
      [2, 3],
      [1, 5],
      [0, 5],
    ] as const) {
      const { receiver, given, ledger, transfers } = receiving({
        budget: room * ROW,
        wanted: [0, 1, 2, 3, 4],
      });
      transfers.mockClear();
      await receiver.receive(cpu, [result(0, VOCAB, 0, 5)], { first: 0, count: 5 });
      expect(given.map(({ logits }) => logits)).toEqual(rows(0, 1, 2, 3, 4));
      expect(transfers).toHaveBeenCalledTimes(transfersMade);
      ledger.assertEmpty();
    }
  });

  test("of a head that comes in pieces they are kept, in the ledger, until the last has come", async () => {
    const { receiver, given, ledger } = receiving({ wanted: [4, 6], headWhole: false });
    expect(ledger.used("cpu")).toBe(2 * ROW);
    await receiver.receive(cpu, [result(0, 4, 0, 2)], { first: 0, count: 2 });
    await receiver.receive(cpu, [result(4, 2, 0, 1)], { first: 0, count: 1 });
    await receiver.receive(cpu, [result(4, 2, 1, 1)], { first: 1, count: 1 });
    expect(given).toEqual([]);
    receiver.finish();
    expect(given.map(({ token }) => token)).toEqual([1004, 1006]);
    expect(given.map(({ logits }) => logits)).toEqual(rows(0, 1));
    receiver.dispose();
    receiver.dispose();
    ledger.assertEmpty();
  });

  test("they are refused before anything is computed where there is no room to keep them", () => {
    expect(() => receiving({ budget: ROW, wanted: [0, 1], headWhole: false })).toThrow(BudgetError);
  });
});

test("logits of every token go straight to the caller's memory", async () => {
  const ledger = new Ledger({ cpu: 0 });
  const sink = new Float32Array(4 * VOCAB);
  const receiver = new LogitsReceiver(
    {
      vocab: VOCAB,
      ledger,
      memory: new LogitsMemory(ledger, VOCAB),
      headWhole: false,
      everythingResident: true,
    },
    { wanted: Int32Array.of(0, 1, 2), start: 1, sink },
  );
  await receiver.receive(cpu, [result(4, 2, 0, 3)], { first: 0, count: 3 });
  await receiver.receive(cpu, [result(0, 4, 0, 2)], { first: 0, count: 2 });
  await receiver.receive(cpu, [result(0, 4, 2, 1)], { first: 2, count: 1 });
  expect([...sink]).toEqual([...new Array(VOCAB).fill(0), ...rows(0, 1, 2).flat()]);
});

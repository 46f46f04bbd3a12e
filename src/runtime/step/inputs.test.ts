// Masks that passes give their graphs: who sees whom, with windows and without, in the memory that was planned for them.
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { Graph } from "../../backend/ggml/ops.ts";
import { downloadNow } from "../../backend/ggml/transfer.ts";
import { Ledger } from "../../memory/ledger.ts";
import { type SequenceInput, splitPasses, visibleRows } from "./chunks.ts";
import { inputBytes, PassInputs } from "./inputs.ts";

const HIDDEN = 8;
const tokens = (count: number) => Array.from({ length: count }, () => 1);

let device: Device;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());

describe.each([undefined, 1, 3, 600])("window %s", (window) => {
  test.each<[string, SequenceInput[]]>([
    ["a prompt", [{ base: 0, past: 0, tokens: tokens(5) }]],
    ["more of one", [{ base: 0, past: 9, tokens: tokens(4) }]],
    ["several chunks", [{ base: 0, past: 0, tokens: tokens(530) }]],
    [
      "sequences together",
      [
        { base: 0, past: 7, tokens: tokens(2) },
        { base: 20, past: 4, tokens: tokens(1) },
        { base: 40, past: 0, tokens: tokens(6) },
      ],
    ],
  ])("%s: each token sees itself and what the window holds before it", async (_what, sequences) => {
    const ledger = new Ledger();
    const windows = window === undefined ? [] : [window];
    const inputs = new PassInputs(device, ledger, HIDDEN, windows);
    onTestFinished(() => inputs.dispose());
    const context = Math.max(...sequences.map((s) => s.past + s.tokens.length));
    inputs.reserve(inputBytes(context, HIDDEN, [], sequences.length, windows));
    const reserved = ledger.used("cpu");
    const [pass] = splitPasses(sequences, 100);
    await inputs.prepare(pass!, [], new Int32Array(1));
    expect(ledger.peak("cpu")).toBe(reserved);

    const arena = new HeaderArena(64, { graph: true });
    onTestFinished(() => arena.dispose());
    const g = new Graph(device, arena);
    for (const chunk of pass!.chunks) {
      const masks =
        window === undefined ? inputs.masks(g, pass!, chunk) : inputs.windowed(g, pass!, chunk).get(window)!;
      expect(masks).toHaveLength(chunk.parts.length);
      for (const [i, part] of chunk.parts.entries()) {
        const mask = masks[i];
        expect(mask === undefined).toBe(part.count === 1);
        if (!mask) continue;
        const { first, count: width } = visibleRows(part, window);
        const bits = new Uint16Array(width * part.count);
        downloadNow(bits, mask);
        const expected = bits.map((_, at) => {
          const [key, query] = [first + (at % width), part.past + Math.floor(at / width)];
          return key <= query && query - key < (window ?? Number.POSITIVE_INFINITY) ? 0 : 0xfc00;
        });
        expect(Buffer.compare(Buffer.from(bits.buffer), Buffer.from(expected.buffer))).toBe(0);
      }
    }
  });
});

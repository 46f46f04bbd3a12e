// What is unread of a stream is bounded, whatever its reader does.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { turn, until } from "../base/async/testing-events.ts";
import { fixture } from "../formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "./causal-lm.ts";
import { Mailbox, UNREAD_PIECES } from "./streaming.ts";

describe("a mailbox", () => {
  test("is full after so many values, and has room again when one is read", async () => {
    const box = new Mailbox<number>(1000);
    for (let i = 0; i < UNREAD_PIECES; i++) {
      expect(box.full).toBe(false);
      box.put(i);
    }
    expect(box.full).toBe(true);
    let room = false;
    const waiting = box.room().then(() => {
      room = true;
    });
    await turn();
    expect(room).toBe(false);
    const reader = box[Symbol.asyncIterator]();
    expect(await reader.next()).toEqual({ done: false, value: 0 });
    await waiting;
    expect(box.unread).toBe(UNREAD_PIECES - 1);
  });

  test("holds no more than its bound, however little its reader takes", () => {
    const box = new Mailbox<number>(3);
    for (let i = 0; i < 3; i++) box.put(i);
    expect(() => box.put(3)).toThrow("more than 3 values are unread");
  });

  test("gives what was put before its end, and then the error", async () => {
    const box = new Mailbox<string>(3);
    box.put("a");
    box.end({ error: new RangeError("why") });
    box.end();
    const reader = box[Symbol.asyncIterator]();
    expect((await reader.next()).value).toBe("a");
    await expect(reader.next()).rejects.toThrow("why");
    await box.room(); // nothing waits for the reader of what is over
  });
});

describe("a reader that is slow", () => {
  let model: CausalLM;
  beforeAll(async () => {
    model = await AutoModelForCausalLM.from_pretrained(fixture("llama"), {
      ...{ device: "cpu", threads: 1, context_length: 256 },
    });
  });
  afterAll(() => model.dispose());

  const TOKENS = 200;
  const endless = () => model.stream([1, 2, 3], { max_new_tokens: TOKENS, ignore_eos: true });
  const decoded = () => model.statistics().decodeTokens;

  test("holds generation back", async () => {
    const before = decoded();
    const pieces = endless();
    await pieces.next();
    await until(() => decoded() - before >= UNREAD_PIECES - 1);
    for (let i = 0; i < 50; i++) await turn();
    expect(decoded() - before).toBeLessThanOrEqual(UNREAD_PIECES + 1);
    await pieces.return();
  });

  test("does not hold another call back, and gets every piece afterwards", async () => {
    const pieces = endless();
    await pieces.next();
    expect(await model.generate({ input_ids: [[7]], max_new_tokens: 1 })).toHaveLength(1);
    let count = 1;
    for await (const { token } of pieces) if (token !== undefined) count++;
    expect(count).toBe(TOKENS);
  });
});

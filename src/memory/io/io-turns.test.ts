import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { defaultDepth, IoTurns, poolThreads } from "./io-turns.ts";

const turn = () => new Promise(setImmediate);

describe("IoTurns", () => {
  test("no more at once than there are places", async () => {
    const turns = new IoTurns(2);
    let inside = 0;
    let most = 0;
    const one = async () => {
      await turns.enter("soon");
      most = Math.max(most, ++inside);
      await turn();
      inside--;
      turns.leave();
    };
    await Promise.all(Array.from({ length: 7 }, one));
    expect(most).toBe(2);
    await Promise.all([turns.enter("beside"), turns.enter("beside")]); // all places are free again
  });

  test("what is needed soonest goes first, otherwise who came first", async () => {
    const turns = new IoTurns(1);
    await turns.enter("beside");
    const order: string[] = [];
    const waiting = (["beside", "soon", "now", "beside", "soon"] as const).map(async (urgency, i) => {
      await turns.enter(urgency);
      order.push(`${urgency} ${i}`);
      turns.leave();
    });
    turns.leave();
    await Promise.all(waiting);
    expect(order).toEqual(["now 2", "soon 1", "soon 4", "beside 0", "beside 3"]);
  });

  test.each([0, -1, 1.5, Number.NaN])("%s places are none", (places) => {
    expect(() => new IoTurns(places)).toThrow(ConfigError);
  });
});

test("one thread of libuv's pool is left for compute", () => {
  expect(defaultDepth({})).toBe(3);
  expect(defaultDepth({ UV_THREADPOOL_SIZE: "12" })).toBe(11);
  expect(defaultDepth({ UV_THREADPOOL_SIZE: "1" })).toBe(1);
  expect(poolThreads({ UV_THREADPOOL_SIZE: "0" })).toBe(1);
  expect(poolThreads({ UV_THREADPOOL_SIZE: "many" })).toBe(1);
  expect(poolThreads({ UV_THREADPOOL_SIZE: "5000" })).toBe(1024);
});

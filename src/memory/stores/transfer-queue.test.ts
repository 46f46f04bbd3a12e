import { describe, expect, test } from "vitest";
import { AbortError, ConfigError } from "../../base/errors.ts";
import { TransferQueue } from "./transfer-queue.ts";

const CHUNK = 4096;

/** Moves that end when they are let go, in any order. */
function held() {
  const running = new Map<string, { resolve: () => void; reject: (error: Error) => void }>();
  const begun: string[] = [];
  let most = 0;
  const move = (name: string) => (from: number, length: number) =>
    new Promise<void>((resolve, reject) => {
      const key = `${name} ${from}+${length}`;
      begun.push(key);
      const over = (end: () => void) => () => {
        running.delete(key);
        end();
      };
      running.set(key, { resolve: over(resolve), reject: (error) => over(() => reject(error))() });
      most = Math.max(most, running.size);
    });
  const letAllGo = async (done: Promise<unknown>) => {
    let over = false;
    const end = () => {
      over = true;
    };
    done.then(end, end);
    while (!over) {
      for (const one of [...running.values()]) one.resolve();
      await turn();
    }
  };
  return { running, begun, move, letAllGo, most: () => most };
}

const turn = () => new Promise(setImmediate);

describe("TransferQueue", () => {
  test("moves everything in chunks, no more in flight than its depth", async () => {
    const queue = new TransferQueue({ depth: 3, chunkBytes: CHUNK });
    const { begun, move, letAllGo, most } = held();
    const done = Promise.all([queue.submit(5 * CHUNK + 1, move("a")), queue.submit(2 * CHUNK, move("b"))]);
    await letAllGo(done);
    await done;
    expect(most()).toBe(3);
    const expected = ["a 0+4096", "a 4096+4096", "a 8192+4096", "a 12288+4096", "a 16384+4096", "a 20480+1"];
    expect(begun.toSorted()).toEqual([...expected, "b 0+4096", "b 4096+4096"].toSorted());
  });

  test("transfers take turns: a short one does not wait for the end of a long one", async () => {
    const queue = new TransferQueue({ depth: 1, chunkBytes: CHUNK });
    const { begun, move, letAllGo } = held();
    const long = queue.submit(4 * CHUNK, move("long"));
    const short = queue.submit(CHUNK, move("short"));
    await letAllGo(Promise.all([long, short]));
    expect(begun.indexOf("short 0+4096")).toBe(1);
  });

  test("rejects with the first error when nothing of it is in flight any more, and starts no more chunks", async () => {
    const queue = new TransferQueue({ depth: 2, chunkBytes: CHUNK });
    const { running, begun, move } = held();
    let settled = false;
    const failing = queue.submit(6 * CHUNK, move("a")).finally(() => {
      settled = true;
    });
    failing.catch(() => {});
    await turn();
    running.get("a 0+4096")!.reject(new Error("disk on fire"));
    await turn();
    expect(settled).toBe(false);
    running.get("a 4096+4096")!.resolve();
    await expect(failing).rejects.toThrow("disk on fire");
    expect(begun).toEqual(["a 0+4096", "a 4096+4096"]);
    // The queue goes on with others.
    await queue.submit(CHUNK, async () => {});
  });

  test("an abort drops the chunks that have not begun", async () => {
    const queue = new TransferQueue({ depth: 1, chunkBytes: CHUNK });
    const abort = new AbortController();
    const seen: number[] = [];
    const moving = queue.submit(
      3 * CHUNK,
      async (from) => {
        seen.push(from);
        abort.abort();
      },
      { signal: abort.signal },
    );
    await expect(moving).rejects.toThrow(AbortError);
    expect(seen).toEqual([0]);
  });

  test("nothing to move is done at once", async () => {
    await new TransferQueue().submit(0, () => Promise.reject(new Error("not called")));
  });

  test.each([
    { depth: 0 },
    { depth: 1.5 },
    { chunkBytes: 0 },
    { chunkBytes: 4097 },
    { chunkBytes: Number.NaN },
  ])("refuses %j", (options) => {
    expect(() => new TransferQueue(options)).toThrow(ConfigError);
  });
});

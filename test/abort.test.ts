// AbortSignals and dispose() at awkward moments: what was running stops, nothing leaks, and what is still open works.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { latch, turn } from "../src/base/async/testing-events.ts";
import { AbortError, DisposedError } from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { expectStillRight, FIXTURES, readGolden } from "./golden/golden.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", context_length: 256, threads: 1 };
const ON_DISK: EngineOptions = { ...CPU, device_map: "disk" };
const LLAMA = join(FIXTURES, "llama");

/** An AbortController that fires at the n-th call of `count`. */
class AbortAt {
  readonly controller = new AbortController();
  readonly reason = new Error("enough");
  #left: number;
  constructor(calls: number) {
    this.#left = calls;
  }
  readonly count = (): void => {
    if (this.#left-- === 0) this.controller.abort(this.reason);
  };
}

function expectAborted(error: unknown, reason: unknown): void {
  expect(error).toBeInstanceOf(AbortError);
  expect(error).toMatchObject({ name: "AbortError", code: "aborted", cause: reason });
}

test("a signal hears many reads at once without a warning of a leak", async () => {
  const warnings: string[] = [];
  const listen = (warning: Error) => warnings.push(warning.message);
  process.on("warning", listen);
  try {
    const { signal } = new AbortController();
    const dir = join(FIXTURES, "qwen2");
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...ON_DISK, signal });
    await model.generate({ input_ids: [[1, 2, 3]], max_new_tokens: 2, ignore_eos: true, signal });
    await turn(); // warnings come a tick later
  } finally {
    process.off("warning", listen);
  }
  expect(warnings).toEqual([]);
});

describe("aborting from_pretrained", () => {
  test("before it begins", async () => {
    await leavesNothing(async () => {
      const signal = AbortSignal.abort("no");
      expectAborted(await rejection(AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, signal })), "no");
    });
  });

  const ways: [string, EngineOptions][] = [
    ["into RAM", { ...CPU, device_map: "cpu" }],
    ["onto disk", ON_DISK],
    ["converting", { ...CPU, device_map: "cpu", dtype: "bfloat16" }],
    ["read whole first", { ...CPU, device_map: "cpu", low_cpu_mem_usage: false }],
  ];
  test.each(ways)("at several reads, %s", async (_way, options) => {
    for (const read of [0, 1, 5]) {
      const { controller, reason, count } = new AbortAt(read);
      await leavesNothing(async () => {
        const { signal } = controller;
        const opening = AutoModelForCausalLM.from_pretrained(LLAMA, {
          ...options,
          signal,
          beforeRead: count,
        });
        expectAborted(await rejection(opening), reason);
      });
    }
  });

  test("while the copy for offload_folder is written: no part of it stays behind", async () => {
    const offload_folder = temporaryFolder();
    for (const read of [0, 3]) {
      const { controller, reason, count } = new AbortAt(read);
      const options = { ...ON_DISK, dtype: "float16" as const, offload_folder, beforeRead: count };
      await leavesNothing(async () => {
        const { signal } = controller;
        expectAborted(
          await rejection(AutoModelForCausalLM.from_pretrained(LLAMA, { ...options, signal })),
          reason,
        );
      });
    }
    const { prompts } = await readGolden("llama");
    const options = { ...ON_DISK, dtype: "float16" as const, offload_folder };
    await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, options);
    expect(await model.generate({ input_ids: [prompts[0]?.ids ?? []], max_new_tokens: 3 })).toHaveLength(1);
  });

  test("from the progress callback, down to its last call", async () => {
    let calls = 0;
    const progress_callback = () => calls++;
    const options = { ...CPU, device_map: "cpu" } as const;
    await (await AutoModelForCausalLM.from_pretrained(LLAMA, { ...options, progress_callback })).dispose();
    for (const call of [0, Math.floor(calls / 2), calls - 1]) {
      const { controller, reason, count } = new AbortAt(call);
      await leavesNothing(async () => {
        const { signal } = controller;
        const opening = AutoModelForCausalLM.from_pretrained(LLAMA, {
          ...options,
          signal,
          progress_callback: count,
        });
        expectAborted(await rejection(opening), reason);
      });
    }
  });

  test("a progress callback that throws ends the loading with its error", async () => {
    await leavesNothing(async () => {
      const progress_callback = () => {
        throw new RangeError("my own mistake");
      };
      const opening = AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, progress_callback });
      await expect(opening).rejects.toThrow("my own mistake");
    });
  });
});

describe("aborting generate", () => {
  test("before it begins, between tokens and during a read; afterwards the model is as it was", async () => {
    const { prompts } = await readGolden("llama");
    const input_ids = [prompts[0]?.ids ?? []];
    let onRead = () => {};
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, {
        ...ON_DISK,
        beforeRead: () => onRead(),
      });
      const signal = AbortSignal.abort("no");
      expectAborted(await rejection(model.generate({ input_ids, signal })), "no");
      expectAborted(await rejection(model.forward({ input_ids, signal })), "no");
      await expectStillRight(model, prompts);

      for (const token of [1, 2, 9]) {
        const { controller, reason, count } = new AbortAt(token);
        const streamer = { put: count, end: () => {} };
        const run = model.generate({ input_ids, streamer, signal: controller.signal });
        expectAborted(await rejection(run), reason);
        await expectStillRight(model, prompts);
      }
      for (const read of [0, 1, 10, 40]) {
        const { controller, reason, count } = new AbortAt(read);
        onRead = count;
        const run = model.generate({
          input_ids,
          max_new_tokens: 64,
          ignore_eos: true,
          signal: controller.signal,
        });
        expectAborted(await rejection(run), reason);
        onRead = () => {};
        await expectStillRight(model, prompts);
      }
    });
  });

  test("leaving a stream early ends it; the next call does not wait for the rest", async () => {
    const { prompts } = await readGolden("llama");
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, ON_DISK);
      const seen: number[] = [];
      for await (const { token } of model.stream(prompts[0]?.ids ?? [], {
        max_new_tokens: 200,
        ignore_eos: true,
      })) {
        if (token !== undefined) seen.push(token);
        if (seen.length === 3) break;
      }
      expect(seen).toEqual(prompts[0]?.greedy.slice(0, 3));
      await expectStillRight(model, prompts);
      expect(model.statistics().decodeTokens).toBeLessThan(200);
    });
  });

  test("an error in the streamer ends the call, not the model", async () => {
    const { prompts } = await readGolden("llama");
    await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, ON_DISK);
    let calls = 0;
    const streamer = {
      put: () => {
        if (calls++ === 4) throw new RangeError("my own mistake");
      },
      end: () => {},
    };
    const run = model.generate({ input_ids: [prompts[0]?.ids ?? []], streamer });
    await expect(run).rejects.toThrow("my own mistake");
    await expectStillRight(model, prompts);
  });
});

test("one signal for many reads and many calls draws no warning of a leak", async () => {
  const { prompts } = await readGolden("llama");
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on("warning", note);
  try {
    const { signal } = new AbortController();
    await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...ON_DISK, signal });
    const input_ids = prompts.map((p) => p.ids);
    await Promise.all(
      Array.from({ length: 12 }, () => model.generate({ input_ids, max_new_tokens: 2, signal })),
    );
    await model.generate({ input_ids, max_new_tokens: 2 });
    await turn(); // warnings come a tick later
  } finally {
    process.off("warning", note);
  }
  expect(warnings).toEqual([]);
});

describe("dispose", () => {
  /** A long generation: `started` when its first token is there, `error` when it has ended. */
  function begin(
    model: CausalLM,
    ids: readonly number[],
  ): { started: Promise<void>; error: Promise<unknown> } {
    let announce = () => {};
    const started = new Promise<void>((resolve) => {
      announce = resolve;
    });
    let calls = 0;
    const put = () => calls++ === 1 && announce(); // the first call is the prompt
    const streamer = { put, end: () => {} };
    const run = model.generate({ input_ids: [ids], max_new_tokens: 200, ignore_eos: true, streamer });
    return { started, error: rejection(run) };
  }

  test.each(["cpu", "disk"] as const)("during generate, weights on %s", async (device_map) => {
    const { prompts } = await readGolden("llama");
    await leavesNothing(async () => {
      const model = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, device_map });
      const { started, error } = begin(model, prompts[0]?.ids ?? []);
      await started;
      const queued = rejection(model.forward({ input_ids: [[1, 2, 3]] }));
      await model.dispose();
      expect(await error).toBeInstanceOf(AbortError);
      expect(await queued).toBeInstanceOf(DisposedError);
      expect(model.memory().entries).toEqual([]);
      expect(model.memory().used).toEqual({ gpu: 0, cpu: 0, disk: 0 });
    });
  });

  test("during a read that takes its time", async () => {
    await leavesNothing(async () => {
      const [reading, answer] = [latch(), latch()];
      let held = false;
      const model = await AutoModelForCausalLM.from_pretrained(LLAMA, {
        ...ON_DISK,
        beforeRead: () => {
          if (!held) return;
          reading.open();
          return answer.opened;
        },
      });
      held = true;
      const generating = rejection(model.generate({ input_ids: [[1, 2, 3]] }));
      await reading.opened;
      const disposing = model.dispose();
      await turn();
      answer.open();
      await disposing;
      expect(await generating).toBeInstanceOf(AbortError);
    });
  });

  test("twice, at once, and as a resource; what is used afterwards says so", async () => {
    await leavesNothing(async () => {
      const model = await AutoModelForCausalLM.from_pretrained(LLAMA, ON_DISK);
      await Promise.all([model.dispose(), model.dispose(), model[Symbol.asyncDispose]()]);
      await model.dispose();
      await expect(model.forward({ input_ids: [[1]] })).rejects.toThrow(DisposedError);
      await expect(model.generate({ input_ids: [[1]] })).rejects.toThrow(DisposedError);
      const first = model.stream([1]).next();
      await expect(first).rejects.toThrow(DisposedError);
    });
  });

  test("fifty times over, nothing grows", async () => {
    const { prompts } = await readGolden("llama");
    await leavesNothing(async () => {
      for (let i = 0; i < 50; i++) {
        const device_map = i % 2 ? "cpu" : "disk";
        await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, device_map });
        if (i % 10 === 0) await expectStillRight(model, prompts);
      }
    });
  });
});

// A process that answers for a long time: what it holds does not grow with the number of answers.
import { getEventListeners } from "node:events";
import v8 from "node:v8";
import vm from "node:vm";
import { expect, test } from "vitest";
import { liveBufferCount } from "../src/backend/ggml/buffer.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { checkpoint } from "./support/checkpoints.ts";

const GENERATIONS = 2000;
/** Of the heap, between the first and the last quarter: an answer that kept a kilobyte would come to 1.5 MB. Bytes. */
const SPREAD = 1_000_000;

v8.setFlagsFromString("--expose-gc");
const collect = vm.runInNewContext("gc") as () => void;

function heap(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

test(`${GENERATIONS} generations: memory stays flat, no listener stays`, async () => {
  const dir = await checkpoint({ family: "llama", dtype: "bf16", layers: 2 });
  await using model = await AutoModelForCausalLM.from_pretrained(dir, {
    ...{ device: "cpu", threads: 1, context_length: 64, device_map: "disk" },
  });
  const { signal } = new AbortController();
  const held = () => ({
    listeners: getEventListeners(signal, "abort").length,
    buffers: liveBufferCount(),
    used: model.memory().used,
  });
  const options = { max_new_tokens: 2, ignore_eos: true, signal };
  await model.generate({ input_ids: [[1, 2, 3]], ...options });
  const before = held();
  let early = 0;
  for (let i = 1; i <= GENERATIONS; i++) {
    const prompt = [1, 2, 3, i % 500, (i * 7) % 500];
    if (i % 3 === 0) for await (const _ of model.stream(prompt, options));
    else if (i % 3 === 1) await model.generate({ input_ids: [prompt, [i % 500]], ...options });
    else await model.generate({ input_ids: [prompt], ...options });
    if (i === GENERATIONS / 4) early = heap();
  }
  expect(held()).toEqual(before);
  expect(heap() - early).toBeLessThan(SPREAD);
});

// PEFT saves the head's own weights beside an update of it: accepted where they are the base's, and nothing comes from them.
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ADAPTER_WEIGHTS } from "../src/adapters/files.ts";
import { mergeAdapter } from "../src/adapters/merge.ts";
import { CheckpointError, UnsupportedError } from "../src/base/errors.ts";
import { openCheckpoint, readTensor, type TensorSource, writeSafetensors } from "../src/formats/index.ts";
import { encodeFloats } from "../src/formats/synthetic/floats.ts";
import { fixture, rejection, temporaryFolder } from "../src/formats/testing.ts";
import type { TensorEntry } from "../src/formats/types.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { Trainer } from "../src/train/trainer.ts";
import { randomAdapter } from "./support/adapters.ts";
import { leavesNothing } from "./support/leaks.ts";

const BASE = fixture("llama");
const HEAD = "base_model.model.lm_head.base_layer.weight";
const CONFIG = { r: 2, target_modules: ["q_proj", "lm_head"] };
const CPU = { device: "cpu", threads: 1 } as const;

type Copy = Pick<TensorSource, "dtype" | "shape" | "data">;

/** An adapter of the head as PEFT writes it, with `change` made to the copy of the head's weights. */
async function withCopy(
  change: (copy: Copy & { data: Uint8Array }) => Copy = (copy) => copy,
): Promise<string> {
  const dir = await randomAdapter(BASE, CONFIG);
  const path = join(dir, ADAPTER_WEIGHTS);
  const [adapter, base] = [await openCheckpoint(path), await openCheckpoint(BASE)];
  const tensors: TensorSource[] = [];
  for (const { name, dtype, shape } of adapter.tensors.values())
    tensors.push({ name, dtype, shape, data: await readTensor(adapter, name) });
  const { shape } = base.tensors.get("lm_head.weight") as TensorEntry;
  const copy = change({ dtype: "f32", shape, data: await readTensor(base, "lm_head.weight") });
  await writeSafetensors(path, [...tensors, { name: HEAD, ...copy }]);
  return dir;
}

async function logits(adapter: string): Promise<Float32Array> {
  await using model = await AutoModelForCausalLM.from_pretrained(BASE, { ...CPU, adapter });
  return (await model.forward({ input_ids: [[5, 9, 2, 77]] })).logits.data;
}

test("one that is the base's changes nothing: opened, trained on and merged", async () => {
  const dir = await withCopy();
  const said = await logits(dir);
  expect(said).toEqual(await logits(await randomAdapter(BASE, CONFIG)));
  const merged = join(temporaryFolder(), "merged");
  await mergeAdapter(BASE, dir, merged);
  expect((await openCheckpoint(merged)).tensors.has("lm_head.weight")).toBe(true);
  const again = temporaryFolder();
  {
    await using model = await AutoModelForCausalLM.from_pretrained(BASE, CPU);
    await using trainer = await Trainer.create(model, { adapter: dir, max_length: 8 });
    await trainer.export(again);
  }
  expect(await logits(again)).toEqual(said);
});

describe("refused, with everything closed", () => {
  test.each<[string, Parameters<typeof withCopy>[0], unknown, RegExp]>([
    [
      "other values",
      ({ data, ...copy }) => ({ ...copy, data: data.with(data.length - 1, (data.at(-1) as number) ^ 1) }),
      UnsupportedError,
      /base_layer\.weight is not the base's lm_head\.weight; name the base/,
    ],
    [
      "another type",
      ({ shape, data }) => ({
        shape,
        dtype: "bf16",
        data: encodeFloats(new Float32Array(data.length / 4), "bf16"),
      }),
      UnsupportedError,
      /\(bf16, the base has f32\)/,
    ],
    [
      "another vocabulary",
      ({ shape: [rows = 0, columns = 0], ...copy }) => ({
        ...copy,
        shape: [rows - 1, columns],
        data: copy.data.subarray(0, (rows - 1) * columns * 4),
      }),
      CheckpointError,
      /lora_B\.weight is \[\d+,\d+\], adapter_config\.json calls for \[\d+,\d+\]/,
    ],
  ])("%s", async (_what, change, kind, message) => {
    const dir = await withCopy(change);
    await leavesNothing(async () => {
      const opening = AutoModelForCausalLM.from_pretrained(BASE, { ...CPU, adapter: dir });
      expect(await rejection(opening)).toMatchObject({
        constructor: kind,
        message: expect.stringMatching(message),
      });
    });
  });
});

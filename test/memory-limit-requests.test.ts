// The promise about memory for what grows with the request: logits, batches, masks of training, merges, exports and copies,
// each in a memory cgroup of its budget + 256 MiB. Skipped, with the reason, where cgroups cannot be made.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { describeUnless } from "../src/base/testing-unproven.ts";
import { makeCheckpoint } from "../src/formats/synthetic.ts";
import { randomAdapter } from "./support/adapters.ts";
import { BESIDE_MIB, DIST, MemoryGroup, MIB, whyNoMemoryGroup } from "./support/memory-group.ts";

const reason = whyNoMemoryGroup();
if (reason) console.warn(`memory limits of requests are not tested: ${reason}`);

const VOCAB = 151_936;
const LONG = 2048;

/** What a run prints at its end. */
interface Outcome {
  /** The ledger's peak, where a model was open. Bytes. */
  readonly ledger?: number;
  readonly rss: number;
  readonly error?: string;
  readonly said?: unknown;
}

describeUnless(reason)("in a memory cgroup of the budget + 256 MiB", () => {
  let folder: string;

  beforeAll(async () => {
    // Beside the sources: a temporary folder may be in RAM, where files count as the process's memory.
    folder = await mkdtemp(fileURLToPath(new URL("./.memory-limit-", import.meta.url)));
    const tiny = { intermediate_size: 128, num_attention_heads: 4, num_key_value_heads: 2 };
    const make = (name: string, shape: Record<string, number>) =>
      makeCheckpoint(join(folder, name), { family: "llama", dtype: "bf16", shape });
    await make("vocab", {
      ...{ ...tiny, hidden_size: 64, num_hidden_layers: 2, vocab_size: VOCAB },
      max_position_embeddings: LONG,
    });
    const one = { num_hidden_layers: 1, num_attention_heads: 1, num_key_value_heads: 1 };
    await make("long", {
      ...{ ...one, hidden_size: 32, intermediate_size: 64, vocab_size: 512 },
      max_position_embeddings: LONG,
    });
    // Its head and embedding are 148 MiB each.
    await make("wide", { ...tiny, ...one, hidden_size: 512, vocab_size: VOCAB });
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** Runs code with `S` (the library), `dir` (a folder) and `open` (a model under the budget) within the limit. */
  async function within(budget: number, code: string): Promise<Outcome> {
    const script = join(folder, `${Math.random()}.mjs`);
    await writeFile(
      script,
      `import * as S from ${JSON.stringify(pathToFileURL(join(DIST, "index.js")).href)};
      const dir = ${JSON.stringify(folder)};
      let m, error, said;
      const open = async (name, options) => (m = await S.AutoModelForCausalLM.from_pretrained(dir + "/" + name, {
        device: "cpu", threads: 1, max_memory: { cpu: ${budget * MIB} }, ...options }));
      try { ${code} } catch (e) { error = e.name + ": " + e.message; }
      const ledger = m?.memory().peak.cpu;
      await m?.dispose();
      console.log(JSON.stringify({ ledger, error, said, rss: process.resourceUsage().maxRSS * 1024 }));`,
    );
    const limit = (budget + BESIDE_MIB) * MIB;
    const group = MemoryGroup.make(limit);
    try {
      const { status, signal, stdout, stderr } = group.run([process.execPath, script]);
      expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr });
      const outcome = JSON.parse(stdout) as Outcome;
      expect(group.peak).toBeLessThanOrEqual(limit);
      expect(outcome.rss).toBeLessThanOrEqual(limit);
      if (outcome.ledger !== undefined) expect(outcome.ledger).toBeLessThanOrEqual(budget * MIB);
      return outcome;
    } finally {
      group.remove();
    }
  }

  const forward = (tokens: number) =>
    `await open("vocab"); said = (await m.forward({ input_ids: [new Array(${tokens}).fill(7)] })).logits.dims;`;

  test("forward: logits that fit are there, those that do not are refused before they are computed", async () => {
    const held = await within(420, forward(512)); // 297 MiB of logits
    expect(held).toMatchObject({ said: [1, 512, VOCAB] });
    expect(held.ledger).toBeGreaterThan(512 * VOCAB * 4);
    const refused = await within(96, forward(512));
    expect(refused.error).toMatch(/^BudgetError: the logits of 512 tokens.*take 296.8 MiB.*tokens would fit/);
  });

  test("generate: 800 sequences", async () => {
    const outcome = await within(
      96,
      `await open("vocab", { context_length: 2048 });
      const input_ids = Array.from({ length: 800 }, (_, i) => [7, i]);
      const drawn = { do_sample: true, seed: 1, repetition_penalty: 1.1 };
      const ids = await m.generate({ input_ids, max_new_tokens: 1, ignore_eos: true, ...drawn });
      said = ids.filter((row, i) => row.length === 3 && row[1] === i).length;`,
    );
    expect(outcome).toMatchObject({ said: 800 });
  });

  test("generate: sequences whose cache does not fit at once go in groups", async () => {
    const outcome = await within(
      72,
      `await open("long", { context_length: 512, max_memory: { cpu: "8MiB" } });
      const input_ids = Array.from({ length: 300 }, (_, i) => Array.from({ length: 100 }, (_, t) => (i * t) % 512));
      const ids = await m.generate({ input_ids, max_new_tokens: 100, ignore_eos: true });
      said = ids.filter((row) => row.length === 200).length;`,
    );
    expect(outcome).toMatchObject({ said: 300 });
    expect(outcome.ledger).toBeLessThanOrEqual(8 * MIB);
  });

  test("a training step over packed sequences, and the export", async () => {
    const outcome = await within(
      420,
      `await open("long", { context_length: 256 });
      const rows = (of) => Array.from({ length: 8 }, () => Array.from({ length: ${LONG} }, (_, i) => of(i)));
      const options = { max_length: ${LONG}, micro_batch_size: 8, offload_folder: dir + "/off" };
      const t = await S.Trainer.create(m, options);
      const batch = { input_ids: rows((i) => i % 500), labels: rows((i) => i % 500), document_ids: rows((i) => i >> 7) };
      said = Number.isFinite((await t.step(batch)).loss);
      await t.export(dir + "/exported");
      await t.dispose();`,
    );
    expect(outcome.error).toBeUndefined();
    expect(outcome.said).toBe(true);
  });

  test("merging an adapter of a head larger than what is held", async () => {
    const adapter = await randomAdapter(join(folder, "wide"), { target_modules: ["lm_head"], r: 16 });
    const max_memory = '{ cpu: "48MiB" }';
    const outcome = await within(
      48,
      `const adapter = ${JSON.stringify(adapter)};
      said = (await S.mergeAdapter(dir + "/wide", adapter, dir + "/merged", { max_memory: ${max_memory} })).merged;`,
    );
    expect(outcome).toMatchObject({ said: 1 });
  });

  test("a converted copy", async () => {
    const outcome = await within(
      240,
      `await open("wide", { dtype: "float16", device_map: "disk", offload_folder: dir + "/copies",
        context_length: 256 });
      said = (await m.generate({ input_ids: [[1, 2]], max_new_tokens: 1, ignore_eos: true }))[0].length;`,
    );
    expect(outcome).toMatchObject({ said: 3 });
  });
});

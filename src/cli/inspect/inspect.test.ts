import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeCheckpoint } from "../../formats/synthetic.ts";
import { call, PLAIN, TINY } from "../testing.ts";
import type { CheckpointSummary, PlanSummary } from "./inspect-summary.ts";

type Document = CheckpointSummary & { plan: PlanSummary | null; plan_error: { code: string } | null };

async function inspect(dir: string, ...more: string[]): Promise<Document> {
  const { stdout } = await call(["inspect", dir, ...PLAIN, "--json", ...more]);
  return JSON.parse(stdout) as Document;
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "spillway-inspect-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("inspect", () => {
  test("says what a checkpoint is", async () => {
    const { plan, plan_error, ...checkpoint } = await inspect(TINY);
    expect(checkpoint).toEqual({
      path: TINY,
      model_type: "llama",
      parameters: 195008,
      layers: 3,
      max_positions: 256,
      tensors: 30,
      files: { format: "safetensors", count: 1, bytes: 783112 },
      stored: { f32: 195008 * 4 },
      in_memory: { f32: 195008 * 4 },
      units: { count: 8, by_kind: { embed: 1, attention: 3, mlp: 3, head: 1 } },
      largest_unit: { name: "model.embed_tokens", bytes: 512 * 64 * 4 },
      tied: {},
      warnings: [],
    });
    expect(plan?.tiers.map((t) => t.tier)).toEqual(["cpu"]);
    expect(plan_error).toBeNull();
  });

  test("names tied weights, and counts them once", async () => {
    const dir = join(folder, "tied");
    await makeCheckpoint(dir, { family: "llama", tie_word_embeddings: true });
    const { tied, stored, parameters } = await inspect(dir);
    expect(tied).toEqual({ "lm_head.weight": "model.embed_tokens.weight" });
    expect(stored).toEqual({ bf16: parameters * 2 });
  });

  test("the plan's parts add up to what each tier would hold", async () => {
    const { plan } = await inspect(TINY, "--cpu", "900KiB", "--context-length", "64");
    expect(plan?.units.cpu).toBeGreaterThan(0);
    expect(plan?.units.disk).toBeGreaterThan(0);
    for (const { planned, entries, budget, tier } of plan?.tiers ?? []) {
      expect(entries.reduce((sum, e) => sum + e.bytes, 0)).toBe(planned);
      if (tier === "cpu") expect(planned).toBeLessThanOrEqual(budget as number);
    }
  });

  test("predicts seconds per token from a bandwidth", async () => {
    const { plan } = await inspect(TINY, "--device-map", "disk", "--disk-bandwidth", "1MiB/s");
    const bytes = plan?.streamed_per_pass.disk as number;
    expect(bytes).toBeGreaterThan(0);
    expect(plan?.prediction).toEqual({ disk_bandwidth: 2 ** 20, seconds_per_token: bytes / 2 ** 20 });
    expect((await inspect(TINY)).plan?.prediction).toBeNull();
  });

  test("a budget that is too small is shown with the checkpoint, and exits with 3", async () => {
    const { code, stdout, stderr } = await call(["inspect", TINY, ...PLAIN, "--cpu", "100KiB", "--json"]);
    expect(code).toBe(3);
    const { parameters, plan, plan_error } = JSON.parse(stdout) as Document;
    expect({ parameters, plan, code: plan_error?.code }).toEqual({
      parameters: 195008,
      plan: null,
      code: "budget",
    });
    expect(stderr).toContain("the smallest budget that works is --cpu");
  });

  test("reads headers only: a 131 GiB checkpoint of holes is planned from a few kilobytes", async () => {
    const dir = join(folder, "70b");
    await makeCheckpoint(dir, { shape: "llama-3-70b", sparse: true });
    const { code, stdout } = await call(["inspect", dir, ...PLAIN, "--cpu", "8GiB"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^parameters +70\.6 B in 723 tensors, 80 layers$/m);
    expect(stdout).toMatch(/^ {2}disk +unlimited +12\d\.\d GiB$/m);
    expect(stdout).toMatch(/^streamed per pass +0 B from RAM, 12\d\.\d GiB from disk$/m);
  });
});

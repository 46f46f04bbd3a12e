import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeCheckpoint } from "../formats/synthetic.ts";
import type { RunReport } from "../report/run-report.ts";
import { call } from "./testing.ts";

interface Document {
  same: boolean;
  runs: {
    title: string;
    device: string;
    tokens: number[];
    max_memory: { cpu?: number };
    report: RunReport;
  }[];
}

/** Bytes of weights a run has on a tier. */
function weights(run: Document["runs"][number] | undefined, tier: string): number {
  const entries = run?.report.tiers.find((t) => t.tier === tier)?.entries;
  return entries?.find((e) => e.what === "weights")?.bytes ?? 0;
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "spillway-demo-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("demo", () => {
  test("the second run really has weights on disk, within its budget, and says the same", async () => {
    const { code, stdout } = await call(["demo", "--json", "--threads", "1", "--max-new-tokens", "6"]);
    expect(code).toBe(0);
    const { same, runs } = JSON.parse(stdout) as Document;
    expect(same).toBe(true);
    const [resident, squeezed] = runs;
    expect(weights(resident, "cpu")).toBeGreaterThan(0);
    expect(weights(resident, "disk")).toBe(0);
    expect(weights(squeezed, "cpu")).toBeGreaterThan(0);
    expect(weights(squeezed, "disk")).toBeGreaterThan(0);
    const cpu = squeezed?.report.tiers.find((t) => t.tier === "cpu");
    expect(cpu?.peak).toBeLessThanOrEqual(squeezed?.max_memory.cpu as number);
    expect(cpu?.peak).toBeLessThan(resident?.report.tiers[0]?.peak as number);
    expect(squeezed?.tokens).toEqual(resident?.tokens);
    expect(squeezed?.tokens).toHaveLength(6);
  });

  test("says in words what it does, and what counts", async () => {
    const { stdout } = await call(["demo", "--threads", "1", "--max-new-tokens", "6"]);
    expect(stdout).toContain("it tells the same one every time");
    expect(stdout).toMatch(/^ +all in RAM +RAM and disk/m);
    expect(stdout).toMatch(/^Same 6 tokens in all (\d runs|runs on a device)\.$/m);
  });

  test("takes another checkpoint", async () => {
    const { path } = await makeCheckpoint(join(folder, "gpt2"), { family: "gpt2" });
    const { code, stdout } = await call(["demo", path, "--json", "--threads", "1", "--max-new-tokens", "4"]);
    expect(code).toBe(0);
    expect((JSON.parse(stdout) as Document).same).toBe(true);
  });
});

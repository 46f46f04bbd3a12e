// Checkpoints for tests: made ones, copies of fixtures that may be damaged, and what a plan does with their bytes.
import { cpSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { BudgetError } from "../../src/base/errors.ts";
import { makeCheckpoint, type SyntheticOptions } from "../../src/formats/synthetic.ts";
import { temporaryFolder } from "../../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../../src/generate/causal-lm.ts";
import type { Tier } from "../../src/memory/tiers.ts";
import type { EngineOptions } from "../../src/runtime/open/prepare.ts";
import { readSkeleton } from "../../src/runtime/open/skeleton.ts";
import { FIXTURES } from "../golden/golden.ts";

let root: string | undefined;
const made = new Map<string, Promise<string>>();

afterAll(() => {
  if (root) rmSync(root, { recursive: true, force: true });
  root = undefined;
  made.clear();
});

/** The folder of a made checkpoint; each is made once per test file and removed at its end. */
export function checkpoint(options: SyntheticOptions): Promise<string> {
  const key = JSON.stringify(options);
  let folder = made.get(key);
  if (!folder) {
    root ??= realpathSync(mkdtempSync(join(tmpdir(), "spillway-test-")));
    folder = makeCheckpoint(join(root, String(made.size)), options).then(({ path }) => path);
    made.set(key, folder);
  }
  return folder;
}

/** A copy of a fixture that the running test may change. */
export function copyOfFixture(name: string): string {
  const folder = temporaryFolder();
  cpSync(join(FIXTURES, name), folder, { recursive: true });
  return folder;
}

/** The numbers between which budgets make a difference, in bytes of the CPU's tier. */
export interface BudgetRange {
  /** The least that works. */
  readonly least: number;
  /** All weights stay. */
  readonly full: number;
}

/** Opens a model with everything resident and with nothing allowed, to see what it takes. */
export async function budgetRange(dir: string, options: EngineOptions): Promise<BudgetRange> {
  const model = await AutoModelForCausalLM.from_pretrained(dir, { ...options, device_map: "cpu" });
  const full = model.plan.bytes.cpu;
  await model.dispose();
  const refusal = await AutoModelForCausalLM.from_pretrained(dir, {
    ...options,
    device_map: "auto",
    max_memory: { cpu: 1 },
  }).catch((error: unknown) => error);
  if (!(refusal instanceof BudgetError)) throw refusal;
  return { least: refusal.needed, full };
}

/** `count` budgets from the least that works to one byte less than all weights need. */
export function budgetsBetween({ least, full }: BudgetRange, count: number): number[] {
  return Array.from({ length: count }, (_, i) =>
    Math.floor(least + ((full - 1 - least) * i) / Math.max(1, count - 1)),
  );
}

/** Bytes of weights that have their home on each tier. */
export async function weightsByTier(model: CausalLM, unitBytes?: number): Promise<Record<Tier, number>> {
  const skeleton = await readSkeleton(model.path, { unitBytes });
  const bytes = { gpu: 0, cpu: 0, disk: 0 };
  for (const unit of skeleton.model.units) bytes[model.plan.homes[unit.index] as Tier] += unit.bytes;
  return bytes;
}

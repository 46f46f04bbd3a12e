// What a run of the tests could not prove on its machine, and why: listed at its end, and, where SPILLWAY_PROOF names a
// folder, left there for scripts/unproven.mjs, which puts several runs together.
import { randomUUID } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Reporter, TestCase, TestModule, Vitest } from "vitest/node";

/** A test that was left out. */
export interface Unproven {
  /** File and full name. */
  readonly test: string;
  readonly reason: string;
}

/** What one run came to. */
export interface Proof {
  readonly node: string;
  readonly platform: string;
  /** Files and full names of the tests that passed. */
  readonly proven: readonly string[];
  readonly unproven: readonly Unproven[];
}

/** Tests that were left out, by reason: a line for each reason, below it the tests. */
export function unprovenLines(unproven: readonly Unproven[]): string[] {
  const byReason = new Map<string, string[]>();
  for (const { test, reason } of unproven) byReason.set(reason, [...(byReason.get(reason) ?? []), test]);
  return [...byReason].flatMap(([reason, tests]) => [
    `${reason}: ${tests.length} ${tests.length === 1 ? "test" : "tests"}`,
    ...tests.slice(0, SHOWN).map((test) => `  ${test}`),
    ...(tests.length > SHOWN ? [`  and ${tests.length - SHOWN} more`] : []),
  ]);
}

/** Tests named below each reason. */
const SHOWN = 3;

export class UnprovenReporter implements Reporter {
  /** Tests that do not match -t are left out on purpose, and without a reason. */
  #named = false;

  onInit({ config }: Vitest): void {
    this.#named = config.testNamePattern !== undefined;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const proof = this.#proof(modules);
    const { unproven } = proof;
    if (unproven.length > 0) {
      const count = `${unproven.length} ${unproven.length === 1 ? "test" : "tests"}`;
      console.log(`\nCould not be proven here (Node ${proof.node}, ${proof.platform}): ${count}`);
      for (const line of unprovenLines(unproven)) console.log(`  ${line}`);
    }
    const folder = process.env.SPILLWAY_PROOF;
    if (!folder) return;
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${randomUUID()}.json`), JSON.stringify(proof));
  }

  #proof(modules: readonly TestModule[]): Proof {
    const proven: string[] = [];
    const unproven: Unproven[] = [];
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const result = test.result();
        const name = fullName(test);
        if (result.state === "passed") proven.push(name);
        if (result.state !== "skipped" || (this.#named && result.note === undefined)) continue;
        unproven.push({ test: name, reason: result.note ?? "no reason is given" });
      }
    }
    const platform = `${process.platform}-${process.arch}`;
    return { node: process.versions.node, platform, proven, unproven };
  }
}

function fullName(test: TestCase): string {
  return `${test.module.relativeModuleId} > ${test.fullName}`;
}

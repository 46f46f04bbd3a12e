// Tests that a machine cannot make: left out with a reason, which the run lists at its end (test/support/unproven.ts).
// Nothing is left out in any other way, so that what a run did not prove is never mistaken for what it did.
import { describe, TestRunner, test } from "vitest";

/** Leaves the running test: `reason` says what is missing, such as "no C compiler". */
export function cannotProve(reason: string): never {
  const running = TestRunner.getCurrentTest();
  if (!running) throw new Error(`cannotProve is called outside of a test: ${reason}`);
  return running.context.skip(reason);
}

/** A test that is left out. */
const leftOut = (reason: string) => () => cannotProve(reason);

/** `test`, or, where a reason is given, tests of the same names that are left out for it. */
export function testUnless(reason: string | undefined): typeof test {
  if (reason === undefined) return test;
  const one = (name: string) => test(name, leftOut(reason));
  const each = (cases: readonly unknown[]) => (name: string) => test.for(cases)(name, leftOut(reason));
  return Object.assign(one, { each, for: each }) as unknown as typeof test;
}

/** `describe`, or, where a reason is given, one test of the group's name that is left out for it. */
export function describeUnless(reason: string | undefined): typeof describe {
  if (reason === undefined) return describe;
  return ((name: string) => test(name, leftOut(reason))) as unknown as typeof describe;
}

/** What is missing where a test needs a platform's own things; undefined where they are there. */
export function needsPosix(what: string): string | undefined {
  return process.platform === "win32" ? `no ${what} on Windows` : undefined;
}

/** As {@link needsPosix}, of what only Linux has. */
export function needsLinux(what: string): string | undefined {
  return process.platform === "linux" ? undefined : `no ${what} on ${process.platform}`;
}

/**
 * Why there is nothing to try on a GPU. Throws where SPILLWAY_TEST_GPU=1 demands one, which CI does: Mesa's lavapipe is one
 * (GGML_VK_VISIBLE_DEVICES=0 makes the library list it).
 */
export function whyNoGpu(gpu: unknown): string | undefined {
  if (gpu) return undefined;
  const reason = "the tensor library reports no GPU (a Vulkan driver such as Mesa's lavapipe will do)";
  if (process.env.SPILLWAY_TEST_GPU === "1") throw new Error(`SPILLWAY_TEST_GPU=1: ${reason}`);
  return reason;
}

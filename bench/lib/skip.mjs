// How a bench ends that cannot run here: it says why, and exits as test programs do that did not run.
const SKIPPED = 77;

/** @param {string | undefined} reason @param {() => Promise<void>} main */
export async function runUnless(reason, main) {
  if (reason === undefined) return main();
  console.error(`skipped: ${reason}`);
  process.exitCode = SKIPPED;
}

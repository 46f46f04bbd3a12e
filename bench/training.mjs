// A training step with its states in RAM, on disk, and with everything on disk, held against what the machine allows:
// the longer of computing (the step with everything in RAM) and of moving the step's bytes at the disk's speed.
//   node bench/training.mjs [--tokens 64,256,1024] [--rates 400,800,1600] [--repeats 3] [--steps 3] [--layers N]
//     [--clipping unreached,reached,off] [--precision float32] [--shape llama-88m] [--checkpoint DIR] [--device cpu]
//     [--disk known|own]
// Clipping: a limit that no gradient reaches, so that updates made ahead are kept; one that each reaches, so that they
// begin when the norm is known; or none, and updates made at once.
// The known disk is in RAM, so these cores copy its bytes; "own" is the machine's, with the same caps, which must be below
// what it can do (`dd if=FILE of=/dev/null bs=8M iflag=direct` says what that is).
// Needs root, blkio cgroup v1, and RAM for the disk (4 GiB) and the runs; one such run at a time. Within a repeat every
// case runs once, in a process of its own, and is held against the runs in RAM of the same repeat.
import { cp, mkdir } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { WORK } from "./lib/cases.mjs";
import { OwnDisk, onKnownDisk, whyNoKnownDisk, whyNoLimits } from "./lib/known-disk.mjs";
import { median, mib, round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count, counts } from "./lib/runner.mjs";
import { runUnless } from "./lib/skip.mjs";
import * as training from "./lib/training-case.mjs";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** @typedef {import("./lib/training-case.mjs").TrainingRun} TrainingRun */
/** @typedef {{ clipping: string, tokens: number, rate?: number, placement: string, run: TrainingRun }} Made */

const CLIPPING = /** @type {const} */ ([
  { name: "unreached", options: { "max-grad-norm": 1e9 } },
  { name: "reached", options: { "max-grad-norm": 1e-3 } },
  { name: "off", options: { "max-grad-norm": 0 } },
]);

/** Where training lives in each case, on a device that computes. @param {string} device */
function placements(device) {
  const { values } = parseArgs({ options: OPTIONS });
if (!["known", "own"].includes(values.disk)) throw new Error(`--disk is known or own, not ${values.disk}`);
const reason = values.disk === "own" ? whyNoLimits() : whyNoKnownDisk();
await runUnless(reason && `a disk of known speed ${reason}`, main);

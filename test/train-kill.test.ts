// A training that is killed twenty times, at seeded random moments and in the middle of saves, and started again each
// time: in the end its log, every checkpoint and its weights are those of one that nothing happened to, bit for bit.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { readdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { build } from "tsdown";
import { expect } from "vitest";
import { workerText } from "../scripts/worker-text.ts";
import { needsPosix, testUnless } from "../src/base/testing-unproven.ts";
import { temporaryFolder } from "../src/formats/testing.ts";
import { Xoshiro128 } from "../src/generate/sampling/random.ts";
import { latestCheckpoint, listCheckpoints, openTrainingCheckpoint } from "../src/train/checkpoints/index.ts";
import { FIXTURES } from "./golden/golden.ts";

const KILLS = 20;
const STEPS = 24;
/** SPILLWAY_TEST_SEED repeats a run. */
const SEED = Number(process.env.SPILLWAY_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** The child as one file of JavaScript: starting it reads no TypeScript. */
async function bundled(): Promise<string> {
  const outDir = temporaryFolder();
  await symlink(
    fileURLToPath(new URL("../node_modules", import.meta.url)),
    join(outDir, "node_modules"),
    "junction",
  );
  const entry = fileURLToPath(new URL("./support/train-child.ts", import.meta.url));
  await build({
    ...{ entry: { child: entry }, format: "esm", platform: "node", target: "node20", fixedExtension: true },
    ...{ outDir, config: false, dts: false, clean: false, logLevel: "silent", plugins: [workerText()] },
  });
  return join(outDir, "child.mjs");
}

/** When to kill: `delay` milliseconds after the `count`-th line that begins with `event`. */
interface Moment {
  readonly event: string;
  readonly count: number;
  readonly delay: number;
}

interface Ended {
  /** Lines said. */
  readonly said: readonly string[];
  readonly killed: boolean;
}

async function run(program: string, folder: string, moment?: Moment): Promise<Ended> {
  const child = spawn(process.execPath, [program, join(FIXTURES, "llama"), folder, String(STEPS)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const ended = new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(String(signal ?? code)));
  });
  const said: string[] = [];
  try {
    let seen = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      said.push(line);
      if (!moment || !line.startsWith(moment.event) || ++seen !== moment.count) continue;
      await sleep(moment.delay);
      child.kill("SIGKILL");
    }
  } finally {
    if (moment) child.kill("SIGKILL");
  }
  const how = await ended;
  if (how !== "SIGKILL") expect(how, errors).toBe("0");
  return { said, killed: how === "SIGKILL" };
}

/** Every third moment is in the middle of a save, at one of its calls of the system; the others fall anywhere. */
function momentsFrom(random: Xoshiro128): Moment[] {
  const below = (n: number) => Math.floor(random.uniform() * n);
  return Array.from({ length: KILLS }, (_, i): Moment => {
    if (i % 3 === 0) {
      const event = ["write of", "sync of", "rename of", "mkdir of", "open of", "truncate of"][
        below(6)
      ] as string;
      return { event, count: 1 + below(2), delay: 0 };
    }
    return { event: i % 3 === 1 ? "from" : "step", count: 1, delay: below(i % 3 === 1 ? 300 : 150) };
  });
}

interface Logged {
  readonly step: number;
  readonly loss: number;
  readonly grad_norm: number;
  readonly learning_rate: number;
}

async function logIn(folder: string): Promise<Logged[]> {
  const text = await readFile(join(folder, "log.jsonl"), "utf8").catch(() => "");
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Logged);
}

/** Hashes of a checkpoint's tensor files, after its record and headers have been read. */
async function contentsOf(path: string): Promise<string[]> {
  const { tensors } = await openTrainingCheckpoint(path);
  return Promise.all(
    tensors.files.map(async (file) =>
      createHash("sha256")
        .update(await readFile(file.path))
        .digest("hex"),
    ),
  );
}

/** What the run that nothing happens to came to. */
interface Undisturbed {
  readonly log: readonly Logged[];
  /** {@link contentsOf} each checkpoint, by its step. */
  readonly checkpoints: ReadonlyMap<number, readonly string[]>;
}

/** One training from its first step to its last, through as many kills as come. */
class Life {
  readonly folder = temporaryFolder();
  readonly #saves = join(this.folder, "checkpoints");
  #logged = 0;
  /** Step of the last save that was said to be done. */
  #saved = 0;

  /** Starts it, or goes on with it. Resolves to whether it was killed. */
  async go(program: string, { log: expected, checkpoints }: Undisturbed, moment?: Moment): Promise<boolean> {
    const about = `seed ${SEED}, killed at ${JSON.stringify(moment)}`;
    const from = (await latestCheckpoint(this.#saves))?.step ?? 0;
    const { said, killed } = await run(program, this.folder, moment);
    if (said.some((line) => line.startsWith("from"))) expect(said, about).toContain(`from ${from}`);

    // What it did again is what followed the checkpoint, at most two steps, and came out the same.
    const log = await logIn(this.folder);
    const fresh = log.slice(this.#logged);
    expect((log[this.#logged - 1]?.step ?? 0) - from, about).toBeLessThanOrEqual(2);
    expect(fresh, about).toEqual(expected.slice(from, from + fresh.length));
    this.#logged = log.length;

    // What it said it saved is there, and everything that counts as a checkpoint is whole and right.
    for (const line of said) if (line.startsWith("saved")) this.#saved = Number(line.split(" ")[1]);
    const found = await listCheckpoints(this.#saves);
    expect(found.at(-1)?.step ?? 0, about).toBeGreaterThanOrEqual(this.#saved);
    for (const { step, path } of found)
      expect(await contentsOf(path), `${about}: ${path}`).toEqual(checkpoints.get(step));
    // State on disk is gone with the process.
    expect(await readdir(join(this.folder, "offload")).catch(() => []), about).toEqual([]);
    if (!killed) {
      expect(found.map((one) => one.step)).toEqual([...checkpoints.keys()]);
      // Nothing half-written is left either.
      expect((await readdir(this.#saves)).length).toBe(found.length);
      expect(log.at(-1)).toEqual(expected.at(-1));
    }
    return killed;
  }
}

testUnless(needsPosix("kill"))(
  `killed ${KILLS} times (SPILLWAY_TEST_SEED=${SEED})`,
  { timeout: 240_000 },
  async () => {
    const program = await bundled();
    const folder = temporaryFolder();
    expect((await run(program, folder)).said.at(-1)).toBe("done");
    const log = await logIn(folder);
    expect(log.map((one) => one.step)).toEqual(Array.from({ length: STEPS }, (_, i) => i + 1));
    const checkpoints = new Map<number, string[]>();
    for (const { step, path } of await listCheckpoints(join(folder, "checkpoints")))
      checkpoints.set(step, await contentsOf(path));
    expect(checkpoints.size).toBe(STEPS / 2);

    // On a fast machine one training is over before it was killed often enough: then another begins.
    let life = new Life();
    for (const moment of momentsFrom(new Xoshiro128(SEED))) {
      while (!(await life.go(program, { log, checkpoints }, moment))) life = new Life();
    }
    expect(await life.go(program, { log, checkpoints })).toBe(false);
  },
);

// The threads that run the loop of adamw.wat: started with the first job, asleep between jobs, gone with the last user. What
// a job steps is its caller's to check and to keep; so is that the cores are free meanwhile.
//
// Not on the event loop's thread, which has reads and writes to start. There are as many threads as the device may compute
// with; how many of them a job wakes is chosen from what the last jobs took. A thread costs about 8 MiB of resident memory, and 2 more where
// it has to copy.

import { Worker } from "node:worker_threads";
import type { Device } from "../../backend/ggml/device.ts";
import { ffiFile } from "../../backend/ggml/loading/ffi.ts";
import { needThreads } from "../../backend/ggml/loading/threads.ts";
import type { Work } from "../../backend/ggml/threads/choice.ts";
import { runAll } from "../../base/async/cleanup.ts";
import { OneByOne } from "../../base/async/one-by-one.ts";
import { LibraryError } from "../../base/errors.ts";
import { RESERVED, SharedSpace, sharedSpace } from "../../memory/shared-memory.ts";
import {
  COPIED_CHUNK,
  PLAIN_CHUNK,
  type StepJob,
  WORKER_SCRATCH,
  WORKER_SOURCE,
  type WorkerData,
} from "./adamw-worker.ts";
import { ADAMW_WASM } from "./rules/adamw.wasm.ts";
import type { LoopConstants } from "./rules/rule.ts";

/** Address 0 of a memory means "none" to the loop, so scratch begins behind it. */
const SCRATCH_START = 4096;
const MAX_THREADS = Math.floor((RESERVED - SCRATCH_START) / WORKER_SCRATCH);
/** The heap of a thread holds its few lines and koffi. */
const LIMITS = { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2, stackSizeMb: 1 } as const;

/** `count` elements at addresses of host memory: f32, but the working copy bf16. */
export interface LoopJob {
  readonly count: number;
  readonly weights: bigint;
  readonly gradient: bigint;
  readonly moments: readonly [bigint, bigint];
  /** Only written. */
  readonly copy?: bigint | undefined;
  /** Where values go before they are stepped, if they are kept. */
  readonly kept?: {
    readonly weights: bigint | undefined;
    readonly moments: readonly [bigint | undefined, bigint | undefined];
  };
  readonly constants: LoopConstants;
}

/** Runs a job with a number of threads; see CpuThreads.measured. */
type Measured = (work: Work, run: (threads: number) => Promise<void>) => Promise<void>;

const crews = new WeakMap<Device, AdamwCrew>();
let compiled: WebAssembly.Module | undefined;

export class AdamwCrew {
  readonly #threads: number;
  readonly #source: string;
  readonly #measured: Measured;
  readonly #counter = new SharedArrayBuffer(4);
  readonly #next = new Int32Array(this.#counter);
  #users = 0;
  readonly #jobs = new OneByOne();
  #team: Promise<Team> | undefined;
  /** The memory of jobs none of whose streams is in one. */
  #own: SharedSpace | undefined;

  /** The one of a device, shared by all that use it. */
  static of(device: Device): AdamwCrew {
    const known = crews.get(device);
    if (known) return known;
    const crew = new AdamwCrew(device.threads, WORKER_SOURCE, (work, run) => device.team.measured(work, run));
    crews.set(device, crew);
    return crew;
  }

  /** `source`: what a thread runs, for tests. `measured` says how many threads take part in a job; all if it is absent. */
  constructor(threads: number, source = WORKER_SOURCE, measured?: Measured) {
    this.#threads = Math.max(1, Math.min(threads, MAX_THREADS));
    this.#source = source;
    this.#measured = measured ?? ((_work, run) => run(threads));
  }

  /** Counts a user, who must {@link leave}. */
  join(): void {
    this.#users++;
  }

  /** Ends the threads if nobody is left, with no job under way. */
  async leave(): Promise<void> {
    if (--this.#users === 0) await this.#stop();
  }

  /** Resolves when the threads are there. Throws LibraryError where they cannot be started. */
  async start(): Promise<void> {
    this.#team ??= this.#open();
    await this.#team;
  }

  /**
   * Steps a job; those asked for at the same time run one after another. Throws LibraryError where a thread died: parts of
   * it are kept and stepped then, others are not, and none is being stepped any more.
   */
  run(job: LoopJob): Promise<void> {
    return this.#jobs.run(() => this.#run(job));
  }

  async #run(job: LoopJob): Promise<void> {
    this.#team ??= this.#open();
    const team = await this.#team;
    const message = this.#message(job);
    Atomics.store(this.#next, 0, 0);
    const work = { kind: "optimizer", detail: "loop", amount: job.count };
    try {
      await this.#measured(work, (threads) => team.run(message.space, message.job, threads));
    } catch (error) {
      await this.#stop();
      throw failure("died at work", error);
    }
  }

  #message({ count, weights, gradient, moments, copy, constants, kept }: LoopJob) {
    const ranges = [weights, gradient, ...moments].map((address) => ({ address, bytes: count * 4 }));
    if (copy !== undefined) ranges.push({ address: copy, bytes: count * 2 });
    const space = this.#spaceOf(ranges);
    const keeps = [kept?.weights, undefined, ...(kept?.moments ?? [])];
    const streams = ranges.map(({ address, bytes }, i) => ({
      address: Number(address),
      offset: space.offsetOf(address, bytes) ?? -1,
      kept: keeps[i] === undefined ? undefined : Number(keeps[i]),
    }));
    const chunk = streams.some(({ offset }) => offset < 0) ? COPIED_CHUNK : PLAIN_CHUNK;
    return { space, job: { base: Number(space.base), count, chunk, constants, streams } };
  }

  /** The memory that holds the most of the streams: the others are copied. */
  #spaceOf(ranges: readonly { address: bigint; bytes: number }[]): SharedSpace {
    const counts = new Map<SharedSpace, number>();
    for (const { address, bytes } of ranges) {
      const space = sharedSpace(address, bytes);
      if (space) counts.set(space, (counts.get(space) ?? 0) + 1);
    }
    const [most] = [...counts].sort(([, a], [, b]) => b - a);
    if (most) return most[0];
    try {
      this.#own ??= new SharedSpace();
      return this.#own;
    } catch (error) {
      throw failure("has no address space", error);
    }
  }

  async #open(): Promise<Team> {
    try {
      needThreads(this.#threads, `an optimizer of ${this.#threads} threads`);
    } catch (error) {
      this.#team = undefined;
      throw error;
    }
    compiled ??= new WebAssembly.Module(Buffer.from(ADAMW_WASM, "base64"));
    const members: Member[] = [];
    try {
      const koffi = ffiFile();
      for (let i = 0; i < this.#threads; i++) {
        const scratch = SCRATCH_START + i * WORKER_SCRATCH;
        members.push(new Member(this.#source, { compiled, scratch, counter: this.#counter, koffi }));
      }
      await Promise.all(members.map((member) => member.answer()));
      return new Team(members);
    } catch (error) {
      this.#team = undefined;
      await Promise.all(members.map((member) => member.end()));
      throw failure("could not be started", error);
    }
  }

  async #stop(): Promise<void> {
    const team = this.#team;
    this.#team = undefined;
    this.#own = undefined;
    await team?.then((members) => members.end()).catch(() => {});
  }
}

/** Threads that are there. */
class Team {
  readonly #members: readonly Member[];
  readonly #spaces = new Map<SharedSpace, number>();

  constructor(members: readonly Member[]) {
    this.#members = members;
  }

  /** Throws the first failure, when all are done or dead. */
  async run(space: SharedSpace, job: Omit<StepJob, "space" | "memory">, threads: number): Promise<void> {
    const known = this.#spaces.get(space);
    const id = known ?? this.#spaces.size;
    this.#spaces.set(space, id);
    const answers = this.#members
      .slice(0, Math.max(1, threads))
      .map((member) => member.ask({ ...job, space: id }, space.memory));
    for (const answer of await Promise.allSettled(answers)) {
      if (answer.status === "rejected") throw answer.reason;
    }
  }

  async end(): Promise<void> {
    await runAll(this.#members.map((member) => () => member.end()));
  }
}

/** One thread. It keeps the process alive only while it is waited for. */
class Member {
  readonly #worker: Worker;
  #failure: Error | undefined;
  /** Memories it has been sent, by their numbers. */
  readonly #spaces = new Set<number>();
  #waiting: { resolve: () => void; reject: (error: Error) => void } | undefined;

  constructor(source: string, data: WorkerData) {
    this.#worker = new Worker(source, {
      ...{ eval: true, workerData: data, execArgv: [], resourceLimits: LIMITS, name: "spillway optimizer" },
    });
    this.#worker.unref();
    this.#worker.on("message", () => this.#waiting?.resolve());
    this.#worker.on("error", (error: Error) => this.#fail(error));
    this.#worker.on("exit", (code) => this.#fail(new Error(`it ended with code ${code}`)));
  }

  ask(job: Omit<StepJob, "memory">, memory: WebAssembly.Memory): Promise<void> {
    const answer = this.answer();
    const isNew = !this.#spaces.has(job.space);
    this.#spaces.add(job.space);
    if (!this.#failure) this.#worker.postMessage({ ...job, ...(isNew && { memory }) });
    return answer;
  }

  /** Resolves with the next message, rejects if there cannot be one. */
  async answer(): Promise<void> {
    if (this.#failure) throw this.#failure;
    this.#worker.ref();
    try {
      await new Promise<void>((resolve, reject) => {
        this.#waiting = { resolve, reject };
      });
    } finally {
      this.#worker.unref();
      this.#waiting = undefined;
    }
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
  }
}

function failure(what: string, cause: unknown): LibraryError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const next = "see whether memory, address space (ulimit -v) or threads (ulimit -u) are limited";
  return new LibraryError(`a thread of the optimizer ${what} (${why}); ${next}`, { cause });
}

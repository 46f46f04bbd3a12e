// Brings units one after another into a ring of their own, ahead of their use, in the fixed order of a cycle; only a full
// ring stops it. How a matrix is brought is the streamer's business.
import { setMaxListeners } from "node:events";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import { AbortError } from "../../base/errors.ts";
import type { RingArena, Span } from "../../memory/ring.ts";
import type { Matrix, Unit } from "../../plan/units.ts";

/** A matrix where the graph can use it. */
export interface Slot {
  readonly name: string;
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly dtype: DType;
  /** ggml's order. */
  readonly ne: readonly [number, number];
  /** It lies there as the checkpoint holds it, [in, out], and is to be turned round. */
  readonly transposed: boolean;
}

/** A unit on its way, or there. */
export interface Job {
  readonly unit: Unit;
  readonly spans: Span[];
  readonly slots: Slot[];
  readonly arrivals: Promise<void>[];
  /** Settles when all arrivals have; set once every matrix has its slot. */
  ready: Promise<void>;
}

export interface LaneOptions {
  readonly ring: RingArena;
  /** The matrices of a unit that pass through the ring. */
  readonly matrices: (unit: Unit) => readonly Matrix[];
  /** Bytes of the ring that a matrix takes. */
  readonly slotBytes: (m: Matrix) => number;
  /** Enters the slot of a matrix, whose part of the ring begins at `at`, and resolves when the matrix is there. */
  readonly bring: (job: Job, m: Matrix, at: number, signal: AbortSignal) => Promise<void>;
  /** The order of use. */
  readonly cycle: readonly Unit[];
}

/** Awaited before a unit is brought. */
export type Gate = (unit: Unit) => Promise<void>;

export class Lane {
  readonly #o: LaneOptions;
  readonly #jobs: Job[] = [];
  /** The unit whose matrices are being given slots. */
  #partial: Job | undefined;
  /** Matrices get slots one by one; in a ring too small for that a unit gets one slot for all. */
  readonly #oneByOne: boolean;
  #cycle: readonly Unit[];
  #gate: Gate | undefined;
  #next = 0;
  #loop: Promise<void> | undefined;
  #stop = new AbortController();
  #wake: (() => void) | undefined;
  #failure: { error: unknown } | undefined;

  constructor(options: LaneOptions) {
    this.#o = options;
    this.#cycle = options.cycle;
    const sizes = options.cycle.map((unit) => options.matrices(unit).map(options.slotBytes));
    const units = sizes.map((own) => own.reduce((a, b) => a + b, 0));
    this.#oneByOne = Math.max(0, ...units) + Math.max(0, ...sizes.flat()) <= options.ring.capacity;
  }

  /** Starts bringing, if that is not under way. */
  start(): void {
    if (this.#loop || this.#cycle.length === 0) return;
    this.#stop = new AbortController();
    setMaxListeners(0, this.#stop.signal); // one for every read in the ring
    this.#failure = undefined;
    this.#loop = this.#run(this.#stop.signal);
  }

  /**
   * A unit of the cycle, once its slots hold its weights; release its spans after use. The next one of the cycle is on its
   * way already; any other makes the lane start anew from there.
   */
  async acquire(unit: Unit): Promise<Job> {
    await this.#moveTo(unit);
    this.start();
    while (this.#jobs.length === 0) {
      if (this.#failure) throw this.#failure.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const job = this.#jobs[0] as Job;
    // What is read before the one that failed is only aborted: the failure is what there is to say.
    await job.ready.catch((error: unknown) => {
      throw this.#failure?.error ?? error;
    });
    this.#jobs.shift();
    return job;
  }

  /** The unit that {@link acquire} gives without starting anew. */
  get #upcoming(): Unit | undefined {
    return (this.#jobs[0] ?? this.#partial)?.unit ?? this.#cycle[this.#next];
  }

  async #moveTo(unit: Unit): Promise<void> {
    if (this.#upcoming === unit) return;
    const at = this.#cycle.indexOf(unit);
    if (at === -1) throw new Error(`${unit.name} was asked for, but is not among what streams`);
    await this.reset();
    this.#next = at;
  }

  /** Ends all bringing, waits for what is in flight, empties the ring and goes back to the start of the cycle. */
  async reset(): Promise<void> {
    this.#stop.abort(new AbortError("the streamer was reset"));
    await this.#loop;
    const begun = this.#jobs.splice(0);
    if (this.#partial) begun.push(this.#partial);
    this.#partial = undefined;
    await Promise.allSettled(begun.flatMap((job) => [...job.arrivals, job.ready]));
    for (const job of begun) release(job);
    this.#loop = undefined;
    this.#next = 0;
  }

  /** Another order of use, from its start. To be called after {@link reset}. */
  follow(cycle: readonly Unit[], gate?: Gate): void {
    this.#cycle = cycle;
    this.#gate = gate;
  }

  async #run(signal: AbortSignal): Promise<void> {
    const cycle = this.#cycle;
    try {
      while (!signal.aborted) {
        const unit = cycle[this.#next] as Unit;
        const job: Job = { unit, spans: [], slots: [], arrivals: [], ready: Promise.resolve() };
        this.#partial = job;
        if (this.#gate) await unlessAborted(this.#gate(unit), signal);
        await this.#begin(job, signal);
        this.#partial = undefined;
        job.ready = settled(job.arrivals);
        // With an error there is no use in reading on: acquire reports it, the pass fails and resets.
        job.ready.catch((error: unknown) => {
          this.#failure ??= { error };
          this.#stop.abort();
        });
        this.#jobs.push(job);
        this.#next = (this.#next + 1) % cycle.length;
        this.#wakeUp();
      }
    } catch (error) {
      if (!signal.aborted) this.#failure = { error };
    } finally {
      this.#wakeUp();
    }
  }

  #wakeUp(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  /** Finds slots for a unit's matrices as the ring empties, and sets them on their way. */
  async #begin(job: Job, signal: AbortSignal): Promise<void> {
    const { ring, matrices, slotBytes, bring } = this.#o;
    const wanted = matrices(job.unit);
    const sizes = wanted.map(slotBytes);
    let at = 0;
    for (const [i, matrix] of wanted.entries()) {
      const size = sizes[i] as number;
      if (this.#oneByOne || i === 0) {
        const span = await ring.waitFor(this.#oneByOne ? size : sizes.reduce((a, b) => a + b, 0), signal);
        job.spans.push(span);
        at = span.offset;
      }
      const arrival = bring(job, matrix, at, signal);
      arrival.catch(() => {}); // reported through `ready`
      job.arrivals.push(arrival);
      at += size;
    }
  }
}

/** Gives the slots of a unit back; its graph must have run. */
export function release(job: Job): void {
  for (const span of job.spans) span.release();
}

/** Rejects with AbortError when the signal fires, if `work` has not settled by then. */
async function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) throw new AbortError(signal.reason);
  let onAbort: () => void = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new AbortError(signal.reason));
    signal.addEventListener("abort", onAbort, { once: true });
  });
  work.catch(() => {}); // if it fails after the signal, nobody asks
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Waits for all, then throws the first error: memory must not be freed under a read that is still in flight. */
async function settled(promises: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(promises);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

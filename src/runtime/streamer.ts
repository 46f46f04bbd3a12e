// Brings the units that are not resident where they are computed, ahead of their use, in the fixed cycle of the model:
// disk -> host ring, and on to the device ring (or from RAM straight to it) when a GPU computes. Reading goes on across
// stages, passes and tokens; only a full ring stops it.
import { setMaxListeners } from "node:events";
import { AbortError } from "../errors.ts";
import type { NativeBuffer } from "../ggml/buffer.ts";
import type { Device } from "../ggml/device.ts";
import type { DType } from "../ggml/dtypes.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { library, onThread } from "../ggml/library.ts";
import { Allocation } from "../memory/allocate.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { ReadQueue } from "../memory/read-queue.ts";
import { RingArena, type Span } from "../memory/ring.ts";
import { UnpackingMemory } from "../memory/unpacking-memory.ts";
import type { Matrix, Unit } from "../plan/units.ts";
import type { Residents } from "./residents.ts";
import { type Piece, pieceBound, readPiece, type SourceFiles } from "./sources.ts";

/** Slots of a device ring start at multiples of this. Bytes. */
const DEVICE_ALIGNMENT = 4096;

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

function slotAt(m: Matrix, buffer: NativeBuffer, offset: number, inPlace: boolean): Slot {
  const [rows, columns] = m.source.shape as [number, number];
  const verbatim = { dtype: m.source.dtype, ne: [columns, rows] as const, transposed: m.transposed };
  const final = { dtype: m.dtype, ne: m.ne, transposed: m.kept };
  return { name: m.name, buffer, offset, ...(inPlace ? final : verbatim) };
}

/** Bytes a unit takes in the ring it is computed from. */
export function slotSize(unit: Unit, device: "cpu" | "gpu"): number {
  return unit.owned.reduce((sum, m) => sum + matrixSlot(m, device), 0);
}

/** Bytes that are moved to bring a matrix to the computing device. */
function movedBytes(m: Matrix): number {
  return m.packed?.bytes ?? m.bytes;
}

/** What streams has its final type already: where it differs from the checkpoint's, a converted copy is read. */
function matrixSlot(m: Matrix, device: "cpu" | "gpu"): number {
  return device === "cpu" ? pieceBound(m.bytes) : Math.ceil(m.bytes / DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT;
}

/** Bytes of the largest matrix of a unit in a ring. */
export function largestSlot(unit: Unit, device: "cpu" | "gpu"): number {
  return Math.max(0, ...unit.owned.map((m) => matrixSlot(m, device)));
}

interface Job {
  readonly unit: Unit;
  readonly spans: Span[];
  readonly slots: Slot[];
  readonly arrivals: Promise<void>[];
  /** Settles when all arrivals have; set once every matrix has its slot. */
  ready: Promise<void>;
}

export interface StreamerOptions {
  readonly device: Device;
  /** Units in the order of use; those that stay are not among them. */
  readonly cycle: readonly Unit[];
  readonly residents: Residents;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  readonly ledger: Ledger;
  /** Bytes of the ring that graphs compute from. */
  readonly ring: number;
  /** Bytes of host memory between disk and device; 0 where the CPU computes. */
  readonly staging: number;
}

export class Streamer {
  readonly #o: StreamerOptions;
  readonly #memory: Allocation;
  readonly #ring: RingArena;
  readonly #staging: { memory: Allocation; ring: RingArena } | undefined;
  /** Where packed matrices are unpacked; absent where nothing is packed. */
  readonly #unpacking: UnpackingMemory | undefined;
  readonly #jobs: Job[] = [];
  /** The unit whose matrices are being given slots. */
  #partial: Job | undefined;
  /** Matrices get slots one by one; in a ring too small for that a unit gets one slot for all. */
  readonly #oneByOne: boolean;
  readonly #headers = new HeaderArena(4);
  #cycle: readonly Unit[];
  #gate: ((unit: Unit) => Promise<void>) | undefined;
  #next = 0;
  #loop: Promise<void> | undefined;
  #stop = new AbortController();
  #wake: (() => void) | undefined;
  #failure: { error: unknown } | undefined;
  #copies: Promise<unknown> = Promise.resolve();
  /** Bytes brought in since the model was opened. */
  streamedBytes = 0;

  constructor(options: StreamerOptions) {
    this.#o = options;
    this.#cycle = options.cycle;
    const { device, ledger, ring, staging } = options;
    const tier = device.kind === "gpu" ? "gpu" : "cpu";
    const packed = options.cycle.some((u) => u.owned.some((m) => m.packed));
    this.#unpacking = packed ? new UnpackingMemory() : undefined;
    const ringMemory = tier === "cpu" ? (this.#unpacking ?? device.memory) : device.memory;
    this.#memory = Allocation.take(ledger, tier, ringMemory, ring, "streaming ring");
    try {
      if (staging > 0) {
        const source = this.#unpacking ?? device.hostMemory;
        const memory = Allocation.take(ledger, "cpu", source, staging, "staging ring");
        this.#staging = { memory, ring: new RingArena(staging, { tier: "cpu" }) };
      }
    } catch (error) {
      this.#memory.dispose();
      throw error;
    }
    this.#ring = new RingArena(ring, { tier });
    const units = options.cycle.map((u) => slotSize(u, device.kind));
    const pieces = options.cycle.map((u) => largestSlot(u, device.kind));
    this.#oneByOne = Math.max(0, ...units) + Math.max(0, ...pieces) <= ring;
  }

  /** Starts reading, if it is not under way. */
  start(): void {
    if (this.#loop || this.#cycle.length === 0) return;
    this.#stop = new AbortController();
    setMaxListeners(0, this.#stop.signal); // one for every read in the ring
    this.#failure = undefined;
    this.#loop = this.#run(this.#stop.signal);
  }

  /** The slots of the next unit of the cycle, once they hold its weights. Give them back with {@link release}. */
  async acquire(unit: Unit): Promise<Job> {
    this.start();
    while (this.#jobs.length === 0) {
      if (this.#failure) throw this.#failure.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const job = this.#jobs[0] as Job;
    if (job.unit !== unit)
      throw new Error(`${unit.name} was asked for, ${job.unit.name} is next in the cycle`);
    // What is read before the one that failed is only aborted: the failure is what there is to say.
    await job.ready.catch((error: unknown) => {
      throw this.#failure?.error ?? error;
    });
    this.#jobs.shift();
    return job;
  }

  /** Gives the slots of a unit back; its graph must have run. */
  release(job: Job): void {
    for (const span of job.spans) span.release();
  }

  /** Ends all reading, waits for what is in flight, empties the ring and goes back to the start of the cycle. */
  async reset(): Promise<void> {
    this.#stop.abort(new AbortError("the streamer was reset"));
    await this.#loop;
    const begun = this.#jobs.splice(0);
    if (this.#partial) begun.push(this.#partial);
    this.#partial = undefined;
    await Promise.allSettled(begun.flatMap((job) => [...job.arrivals, job.ready]));
    for (const job of begun) this.release(job);
    this.#loop = undefined;
    this.#next = 0;
  }

  /**
   * Another order of use, from its start: a training step goes through the stages forward and then backward. `gate` is
   * awaited before a unit is read, so that an update of its weights can be finished first.
   */
  async follow(cycle: readonly Unit[], gate?: (unit: Unit) => Promise<void>): Promise<void> {
    await this.reset();
    this.#cycle = cycle;
    this.#gate = gate;
  }

  /** Back to the order of use that the model was opened with, if another was followed. */
  async followPass(): Promise<void> {
    if (this.#cycle !== this.#o.cycle || this.#gate) await this.follow(this.#o.cycle);
  }

  /** Whether `cycle` is the order of use that is followed. */
  follows(cycle: readonly Unit[]): boolean {
    return this.#cycle === cycle;
  }

  /** The order of use that the model was opened with. */
  get pass(): readonly Unit[] {
    return this.#o.cycle;
  }

  /** Whether the cycle stands at its start, as a pass needs it. */
  get atStart(): boolean {
    const first = this.#cycle[0];
    return this.#jobs.length > 0 ? this.#jobs[0]?.unit === first : this.#next === 0;
  }

  async dispose(): Promise<void> {
    await this.reset();
    await this.#o.queue.idle();
    this.#memory.dispose();
    this.#staging?.memory.dispose();
    this.#headers.dispose();
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
    const { device } = this.#o;
    const sizes = job.unit.owned.map((m) => matrixSlot(m, device.kind));
    let at = 0;
    for (const [i, matrix] of job.unit.owned.entries()) {
      if (this.#oneByOne || i === 0) {
        const wanted = this.#oneByOne ? (sizes[i] as number) : sizes.reduce((a, b) => a + b, 0);
        const span = await this.#ring.waitFor(wanted, signal);
        job.spans.push(span);
        at = span.offset;
      }
      this.streamedBytes += movedBytes(matrix);
      const arrival = this.#bring(job, matrix, at, signal);
      arrival.catch(() => {}); // reported through `ready`
      job.arrivals.push(arrival);
      at += sizes[i] as number;
    }
  }

  #bring(job: Job, matrix: Matrix, at: number, signal: AbortSignal): Promise<void> {
    const { device, residents } = this.#o;
    const { buffer } = this.#memory;
    if (device.kind === "cpu") {
      const { start, done } = this.#fromDisk(matrix, buffer, at, signal);
      job.slots.push(slotAt(matrix, buffer, start, false));
      return done;
    }
    const stays = residents.matrix(matrix);
    job.slots.push(slotAt(matrix, buffer, at, stays !== undefined));
    if (!stays) return this.#throughStaging(matrix, at, signal);
    const from = stays.placed.allocation.buffer.address(stays.placed.offset);
    return this.#copy(from, at, matrix.bytes);
  }

  /** Reads a matrix into its slot of host memory, which begins at `at`; `start` is where it lies once that is done. */
  #fromDisk(
    m: Matrix,
    target: NativeBuffer,
    at: number,
    signal: AbortSignal,
  ): { start: number; done: Promise<void> } {
    const { sources } = this.#o;
    if (!m.packed || !this.#unpacking) {
      const piece = sources.piece(m.source);
      return { start: at + piece.shift, done: this.#read(piece, target, at, signal) };
    }
    // It is unpacked from the end of the slot to its start.
    const piece = sources.piece(m.packed);
    const from = at + pieceBound(m.bytes) - piece.length;
    const unpacking = this.#unpacking;
    const elements = m.ne[0] * m.ne[1];
    const unpackOptions = { name: m.name, file: piece.file.path, signal };
    const done = this.#read(piece, target, from, signal).then(() =>
      unpacking.unpack(from + piece.shift, piece.bytes, at, elements, unpackOptions),
    );
    return { start: at, done };
  }

  #read(piece: Piece, target: NativeBuffer, at: number, signal: AbortSignal): Promise<void> {
    return readPiece(this.#o.queue, piece, target, at, signal);
  }

  async #throughStaging(matrix: Matrix, at: number, signal: AbortSignal): Promise<void> {
    const staging = this.#staging as { memory: Allocation; ring: RingArena };
    const span = await staging.ring.waitFor(pieceBound(matrix.bytes), signal);
    try {
      const { buffer } = staging.memory;
      const { start, done } = this.#fromDisk(matrix, buffer, span.offset, signal);
      await done;
      await this.#copy(buffer.address(start), at, matrix.bytes);
    } finally {
      span.release();
    }
  }

  /** Copies to the device on its second stream, one after another. */
  #copy(from: bigint, at: number, bytes: number): Promise<void> {
    const { device } = this.#o;
    const run = async () => {
      const { native } = library();
      this.#headers.reset();
      const tensor = this.#headers.bind(this.#memory.buffer, at, "i8", [bytes]);
      if (device.asyncCopies) {
        await onThread(
          native.ggml_backend_tensor_set_async,
          device.copyBackend,
          tensor.handle,
          from,
          0,
          bytes,
        );
        await onThread(native.ggml_backend_synchronize, device.copyBackend);
      } else {
        await onThread(native.ggml_backend_tensor_set, tensor.handle, from, 0, bytes);
      }
    };
    const result = this.#copies.then(run, run);
    this.#copies = result.catch(() => {});
    return result;
  }
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

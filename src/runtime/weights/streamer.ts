// Brings the units that are not resident where they are computed, ahead of their use, in the fixed cycle of the model:
// disk -> host ring, and on to the device ring (or from RAM straight to it) when a GPU computes. Reading goes on across
// stages, passes and tokens. Units that stay in RAM packed have a ring of their own, so that the disk never waits for them.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { uploadBeside } from "../../backend/ggml/transfer.ts";
import { disposeAll, runAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { ReadQueue } from "../../memory/io/read-queue.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { RingArena } from "../../memory/ring.ts";
import { UnpackingMemory } from "../../memory/unpacking-memory.ts";
import type { Matrix, Unit } from "../../plan/units.ts";
import { type Gate, type Job, Lane, release, type Slot } from "./lane.ts";
import type { Residents } from "./residents.ts";
import { type Piece, pieceBound, readPiece, type SourceFiles } from "./sources.ts";

/** Slots of a device ring start at multiples of this. Bytes. */
const DEVICE_ALIGNMENT = 4096;

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

export interface StreamerOptions {
  readonly device: Device;
  /** Units in the order of use; those that stay where they are computed are not among them. */
  readonly cycle: readonly Unit[];
  readonly residents: Residents;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  readonly ledger: Ledger;
  /** Bytes of the ring that graphs compute from. */
  readonly ring: number;
  /** Bytes of host memory between disk and device; 0 where the CPU computes. */
  readonly staging: number;
  /** Bytes of the ring for units that stay in RAM packed; 0 where none does. */
  readonly unpacking: number;
}

/** A ring and its memory. */
interface Ring {
  readonly memory: Allocation;
  readonly ring: RingArena;
  /** The same memory where packed matrices are unpacked in it. */
  readonly unpacking: UnpackingMemory | undefined;
}

export class UnitStreamer {
  readonly #o: StreamerOptions;
  readonly #rings: Ring[] = [];
  readonly #main: Ring | undefined;
  readonly #unpacking: Ring | undefined;
  readonly #staging: Ring | undefined;
  readonly #disk: Lane | undefined;
  readonly #packed: Lane | undefined;
  readonly #headers = new HeaderArena(4);
  #cycle: readonly Unit[];
  #gated = false;
  #copies: Promise<unknown> = Promise.resolve();
  /** Bytes brought in since the model was opened. */
  streamedBytes = 0;

  constructor(options: StreamerOptions) {
    this.#o = options;
    this.#cycle = options.cycle;
    const { device, cycle, ring, staging, unpacking } = options;
    const unpacks = cycle.some((unit) => this.#fromDisk(unit) && unit.owned.some((m) => m.packed));
    const tier = device.kind;
    try {
      if (cycle.some((unit) => this.#fromDisk(unit))) {
        this.#main = this.#take(tier, ring, "streaming ring", tier === "cpu" && unpacks);
        this.#disk = this.#lane(this.#main, (unit) => this.#fromDisk(unit));
      }
      if (cycle.some((unit) => !this.#fromDisk(unit))) {
        this.#unpacking = this.#take(tier, unpacking, "unpacking ring", true);
        this.#packed = this.#lane(this.#unpacking, (unit) => !this.#fromDisk(unit));
      }
      if (staging > 0) this.#staging = this.#take("cpu", staging, "staging ring", unpacks);
    } catch (error) {
      undoNowAfter(error, [() => this.#free()]);
    }
  }

  #take(tier: "gpu" | "cpu", bytes: number, what: string, unpacks: boolean): Ring {
    const { device, ledger } = this.#o;
    const computes = device.onHost; // on the cores that unpack
    const unpacking = unpacks
      ? new UnpackingMemory(computes ? (work) => device.alone(work) : undefined)
      : undefined;
    const plain = tier === device.kind ? device.memory : device.hostMemory;
    const memory = Allocation.take(ledger, tier, unpacking ?? plain, bytes, what);
    const ring = { memory, ring: new RingArena(bytes, { tier }), unpacking };
    this.#rings.push(ring);
    return ring;
  }

  #lane(ring: Ring, mine: (unit: Unit) => boolean): Lane {
    const { device, residents, cycle } = this.#o;
    return new Lane({
      ring: ring.ring,
      matrices: (unit) => unit.owned.filter((m) => residents.matrix(m)?.tier !== device.kind),
      slotBytes: (m) => matrixSlot(m, device.kind),
      bring: (job, m, at, signal) => this.#bring(ring, job, m, at, signal),
      cycle: cycle.filter(mine),
    });
  }

  /** Whether a unit comes through the main ring; the others stay packed in RAM. */
  #fromDisk(unit: Unit): boolean {
    return !unit.owned.some((m) => this.#o.residents.packed(m));
  }

  /** Starts reading, if it is not under way. */
  start(): void {
    this.#disk?.start();
    this.#packed?.start();
  }

  /** The slots of a unit, once they hold its weights: see {@link Lane.acquire}. Give them back with {@link release}. */
  async acquire(unit: Unit): Promise<Job> {
    this.start();
    const lane = this.#fromDisk(unit) ? this.#disk : this.#packed;
    if (!lane) throw new Error(`${unit.name} was asked for, but nothing like it streams`);
    return lane.acquire(unit);
  }

  /** A slot like the one that a matrix will come to, at the start of its ring: for graphs that are built before. */
  placeholder(unit: Unit, m: Matrix): Slot {
    const ring = this.#fromDisk(unit) ? this.#main : this.#unpacking;
    if (!ring) throw new Error(`${unit.name} was asked for, but nothing like it streams`);
    return slotAt(m, ring.memory.buffer, 0, false);
  }

  /** Gives the slots of a unit back; its graph must have run. */
  release(job: Job): void {
    release(job);
  }

  /** Ends all reading, waits for what is in flight, empties the rings and goes back to the start of the cycle. */
  async reset(): Promise<void> {
    await Promise.all([this.#disk?.reset(), this.#packed?.reset()]);
  }

  /**
   * Another order of use, from its start: a training step goes through the stages forward and then backward. `gate` is
   * awaited before a unit is read, so that an update of its weights can be finished first.
   */
  async follow(cycle: readonly Unit[], gate?: Gate): Promise<void> {
    await this.reset();
    this.#cycle = cycle;
    this.#gated = gate !== undefined;
    const fromDisk = (unit: Unit) => this.#fromDisk(unit);
    this.#disk?.follow(cycle.filter(fromDisk), gate);
    this.#packed?.follow(
      cycle.filter((unit) => !fromDisk(unit)),
      gate,
    );
  }

  /** Back to the order of use that the model was opened with, if another was followed. */
  async followPass(): Promise<void> {
    if (this.#cycle !== this.#o.cycle || this.#gated) await this.follow(this.#o.cycle);
  }

  /** Whether `cycle` is the order of use that is followed. */
  follows(cycle: readonly Unit[]): boolean {
    return this.#cycle === cycle;
  }

  /** The order of use that the model was opened with. */
  get pass(): readonly Unit[] {
    return this.#o.cycle;
  }

  async dispose(): Promise<void> {
    await runAll([() => this.reset(), () => this.#o.queue.idle(), () => this.#free()]);
  }

  #free(): void {
    disposeAll([...this.#rings.map(({ memory }) => memory), this.#headers]);
  }

  #bring(ring: Ring, job: Job, matrix: Matrix, at: number, signal: AbortSignal): Promise<void> {
    this.streamedBytes += movedBytes(matrix);
    const { device, residents } = this.#o;
    const { buffer } = ring.memory;
    if (residents.packed(matrix)) {
      job.slots.push(slotAt(matrix, buffer, at, false));
      return this.#unpackResident(ring, matrix, at, signal);
    }
    if (device.onHost) {
      const { start, done } = this.#read(ring, matrix, at, signal);
      job.slots.push(slotAt(matrix, buffer, start, false));
      return done;
    }
    const stays = residents.matrix(matrix);
    job.slots.push(slotAt(matrix, buffer, at, stays !== undefined));
    if (!stays) return this.#throughStaging(buffer, matrix, at, signal);
    const from = stays.placed.buffer.address(stays.placed.offset);
    return this.#copy(from, buffer, at, matrix.bytes);
  }

  async #unpackResident(ring: Ring, m: Matrix, at: number, signal: AbortSignal): Promise<void> {
    const { placed, bytes } = this.#o.residents.packed(m) as NonNullable<ReturnType<Residents["packed"]>>;
    const source = placed.buffer.bytes(placed.offset, bytes);
    const elements = m.ne[0] * m.ne[1];
    await (ring.unpacking as UnpackingMemory).unpackFrom(source, at, elements, { name: m.name, signal });
  }

  /** Reads a matrix into its slot of host memory, which begins at `at`; `start` is where it lies once that is done. */
  #read(
    { memory: { buffer }, unpacking }: Ring,
    m: Matrix,
    at: number,
    signal: AbortSignal,
  ): { start: number; done: Promise<void> } {
    const { sources, queue } = this.#o;
    const lies = m.packed && unpacking ? m.packed : m.source;
    const checksums = sources.checksums(lies);
    const read = (piece: Piece, to: number) => {
      const done = readPiece(queue, piece, buffer, to, signal);
      if (!checksums) return done;
      const bytes = () => new Uint8Array(buffer.view(to + piece.shift, piece.bytes));
      return done.then(() => checksums.verify(lies, bytes()));
    };
    if (!m.packed || !unpacking) {
      const piece = sources.piece(m.source);
      return { start: at + piece.shift, done: read(piece, at) };
    }
    // It is unpacked from the end of the slot to its start.
    const piece = sources.piece(m.packed);
    const from = at + pieceBound(m.bytes) - piece.length;
    const elements = m.ne[0] * m.ne[1];
    const unpackOptions = { name: m.name, file: piece.file.path, signal };
    const done = read(piece, from).then(() =>
      unpacking.unpack(from + piece.shift, piece.bytes, at, elements, unpackOptions),
    );
    return { start: at, done };
  }

  async #throughStaging(
    target: NativeBuffer,
    matrix: Matrix,
    at: number,
    signal: AbortSignal,
  ): Promise<void> {
    const staging = this.#staging as Ring;
    const span = await staging.ring.waitFor(pieceBound(matrix.bytes), signal);
    try {
      const { start, done } = this.#read(staging, matrix, span.offset, signal);
      await done;
      await this.#copy(staging.memory.buffer.address(start), target, at, matrix.bytes);
    } finally {
      span.release();
    }
  }

  /** Copies to the device on its second stream, one after another. */
  #copy(from: bigint, target: NativeBuffer, at: number, bytes: number): Promise<void> {
    const { device } = this.#o;
    const run = async () => {
      this.#headers.reset();
      await uploadBeside(device, this.#headers.bind(target, at, "i8", [bytes]), from, bytes);
    };
    const result = this.#copies.then(run, run);
    this.#copies = result.catch(() => {});
    return result;
  }
}

// Regions in one file: where each lies, what is free between them, and how bytes at any address get there though direct
// I/O wants whole blocks. The file itself is state-file.ts.

import type { BufferType, NativeBuffer } from "../../backend/ggml/buffer.ts";
import { runAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { OneByOne } from "../../base/async/one-by-one.ts";
import { IoError } from "../../base/errors.ts";
import { Allocation } from "../allocate.ts";
import { ALIGNMENT, type DirectFile, wholeBlocks } from "../io/direct-io.ts";
import type { Urgency } from "../io/io-turns.ts";
import { causingCode } from "../io/system-errors.ts";
import type { Ledger, Reservation } from "../ledger.ts";
import { formatBytes } from "../sizes.ts";
import { type Backing, ManagedStore } from "./managed.ts";
import { RangeSet } from "./range-set.ts";
import { StateFile, type StateFileOptions } from "./state-file.ts";
import { TransferQueue, type TransferQueueOptions } from "./transfer-queue.ts";

export interface DiskStoreOptions extends StateFileOptions, TransferQueueOptions {
  /** Made if need be. The file in it has no name once it is open. */
  readonly folder: string;
  readonly ledger: Ledger;
  /** Host memory for the blocks that are only used in part. */
  readonly memory: BufferType;
}

/** Memory that unaligned transfers pass through. Bytes. */
const BOUNCE = 256 * 1024;

/** A transfer between host memory and the file. Bytes. */
interface Move {
  readonly direction: "read" | "write";
  readonly memory: NativeBuffer;
  readonly at: number;
  readonly position: number;
  readonly length: number;
  readonly signal: AbortSignal | undefined;
  readonly urgency: Urgency;
}

/** Keeps regions on disk. The ledger's entries for disk add up to the length of the file, gaps included. */
export class DiskStore extends ManagedStore {
  readonly tier = "disk";
  readonly #file: StateFile;
  readonly #ledger: Ledger;
  readonly #memory: BufferType;
  readonly #queue: TransferQueue;
  readonly #bounce: Allocation;
  readonly #reader: DirectFile;
  readonly #gaps = new RangeSet();
  readonly #gapBytes: Reservation;
  #end = 0;
  /** Of the layout. */
  readonly #changes = new OneByOne();
  readonly #bounces = new OneByOne();
  readonly #moved = { read: 0, write: 0 };

  private constructor(
    options: DiskStoreOptions,
    file: StateFile,
    queue: TransferQueue,
    bounce: Allocation,
    gapBytes: Reservation,
  ) {
    super();
    this.#file = file;
    this.#ledger = options.ledger;
    this.#memory = options.memory;
    this.#queue = queue;
    this.#bounce = bounce;
    this.#gapBytes = gapBytes;
    this.#reader = file.reader();
  }

  /** Throws IoError where the folder cannot be written, BudgetError, ConfigError for the queue's options. */
  static async open(options: DiskStoreOptions): Promise<DiskStore> {
    const queue = new TransferQueue(options);
    const bounce = Allocation.take(options.ledger, "cpu", options.memory, BOUNCE, "staging");
    const gapBytes = options.ledger.reserve("disk", 0, "gaps in the state file");
    try {
      const file = await StateFile.create(options.folder, bounce.buffer.view(), options);
      return new DiskStore(options, file, queue, bounce, gapBytes);
    } catch (error) {
      undoNowAfter(error, [() => bounce.dispose(), () => gapBytes.release()]);
    }
  }

  /** Whether transfers go past the page cache. */
  get direct(): boolean {
    return this.#file.direct;
  }

  /** Bytes of the file. */
  get size(): number {
    return this.#end;
  }

  /** Bytes moved since the store was opened, whole blocks where only parts were asked for. */
  get transferred(): { readonly read: number; readonly write: number } {
    return { ...this.#moved };
  }

  protected take(bytes: number, what: string, urgency: Urgency): Promise<Backing> {
    return this.#changes.run(async () => {
      const room = wholeBlocks(bytes);
      const position = this.#gaps.bestFit(room) ?? this.#end;
      const growth = Math.max(0, position + room - this.#end);
      this.#gaps.remove(position, position + room);
      this.#gapBytes.resize(this.#gaps.total);
      let reservation: Reservation;
      try {
        reservation = this.#ledger.reserve("disk", room, what);
      } catch (error) {
        if (growth === 0) this.#leaveGap(position, room);
        throw error;
      }
      this.#end += growth;
      try {
        await this.#fillWithZeros(position, room, growth, what);
      } catch (error) {
        // A disk in trouble may not let the file be made shorter either; what led here is the error to tell.
        await this.#giveBack(position, room, reservation).catch(() => {});
        throw error;
      }
      return this.#backing(position, room, reservation, urgency);
    });
  }

  #backing(position: number, room: number, reservation: Reservation, urgency: Urgency): Backing {
    const move =
      (direction: "read" | "write"): Backing["read"] =>
      (memory, at, offset, length, signal) =>
        this.#move({ direction, memory, at, position: position + offset, length, signal, urgency });
    return {
      granularity: ALIGNMENT,
      file: { file: this.#reader, offset: position },
      read: move("read"),
      write: move("write"),
      release: () => this.#changes.run(() => this.#giveBack(position, room, reservation)),
    };
  }

  /** Writes the zeros out: a file made longer without writing would run out of disk in the middle of a step. */
  async #fillWithZeros(position: number, room: number, growth: number, what: string): Promise<void> {
    const free = growth > 0 ? await this.#file.available() : undefined;
    const needs = `${what} needs ${room} bytes (${formatBytes(room)})`;
    const next = "free some of the disk or name another folder";
    if (free !== undefined && free < growth) {
      throw new IoError(
        `${needs}, the disk has ${free} free (${formatBytes(free)}); ${next}`,
        this.#file.path,
      );
    }
    const chunk = Math.min(room, this.#queue.chunkBytes);
    const zeros = Allocation.take(this.#ledger, "cpu", this.#memory, chunk, "staging");
    try {
      zeros.buffer.clear(0);
      await this.#queue.submit(room, async (from, length) => {
        await this.#transfer("write", zeros.buffer, 0, position + from, length, undefined);
      });
    } catch (error) {
      const code = causingCode(error);
      if (code !== "ENOSPC" && code !== "EDQUOT") throw error;
      const left = await this.#file.available().catch(() => undefined);
      const had = left === undefined ? "less than that" : `${left} free (${formatBytes(left)})`;
      throw new IoError(`${needs}, the disk has ${had}; ${next}`, this.#file.path, { cause: error });
    } finally {
      zeros.dispose();
    }
  }

  /** The end of the file goes back to the disk; what lies between regions is a gap for the next ones. */
  async #giveBack(position: number, room: number, reservation: Reservation): Promise<void> {
    reservation.release();
    this.#leaveGap(position, room);
    const last = this.#gaps.pieces.at(-1);
    if (last?.to !== this.#end) return;
    await this.#file.truncate(last.from);
    this.#end = last.from;
    this.#gaps.remove(last.from, last.to);
    this.#gapBytes.resize(this.#gaps.total);
  }

  #leaveGap(position: number, room: number): void {
    this.#gaps.add(position, position + room);
    this.#gapBytes.resize(this.#gaps.total);
  }

  async #move(m: Move): Promise<void> {
    const end = m.position + m.length;
    // Of the address: memory may be a part of something larger that begins anywhere.
    const address = Number(m.memory.address(m.at) % BigInt(ALIGNMENT));
    const aligned = [address, m.position, m.length].every((n) => n % ALIGNMENT === 0);
    if (!this.#file.direct || aligned) return this.#straight(m);
    // Where memory and file are offset alike, only the blocks at the ends take the detour.
    const alike = (address - m.position) % ALIGNMENT === 0;
    const first = alike ? Math.min(wholeBlocks(m.position), end) : end;
    const last = alike ? Math.max(Math.floor(end / ALIGNMENT) * ALIGNMENT, first) : end;
    const part = (from: number, to: number): Move => ({
      ...m,
      at: m.at + from - m.position,
      position: from,
      length: to - from,
    });
    await this.#detour(part(m.position, first));
    await this.#straight(part(first, last));
    await this.#detour(part(last, end));
  }

  #straight(m: Move): Promise<void> {
    return this.#queue.submit(
      m.length,
      (from, length) =>
        this.#transfer(m.direction, m.memory, m.at + from, m.position + from, length, m.signal),
      m,
    );
  }

  /** Through whole blocks of the bounce buffer; a write keeps what the blocks at its ends held. */
  #detour(m: Move): Promise<void> {
    if (m.length === 0) return Promise.resolve();
    const run = async () => {
      const bounce = this.#bounce.buffer;
      const end = m.position + m.length;
      for (let at = m.position; at < end; ) {
        const start = Math.floor(at / ALIGNMENT) * ALIGNMENT;
        const to = Math.min(end, start + BOUNCE);
        const wide = wholeBlocks(to - start);
        const blocks = (direction: "read" | "write", from: number, length: number) =>
          this.#queue.submit(
            length,
            (more, bytes) =>
              this.#transfer(direction, bounce, from + more, start + from + more, bytes, m.signal),
            m,
          );
        const inside = bounce.bytes(at - start, to - at);
        const outside = m.memory.bytes(m.at + at - m.position, to - at);
        if (m.direction === "read") {
          await blocks("read", 0, wide);
          outside.set(inside);
        } else {
          const tail = wide - ALIGNMENT;
          if (at > start) await blocks("read", 0, ALIGNMENT);
          if (to < start + wide && (tail > 0 || at === start)) await blocks("read", tail, ALIGNMENT);
          inside.set(outside);
          await blocks("write", 0, wide);
        }
        at = to;
      }
    };
    return this.#bounces.run(run);
  }

  async #transfer(
    direction: "read" | "write",
    memory: NativeBuffer,
    at: number,
    position: number,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    await this.#file.transfer(direction, memory.bytes(at, length), position, signal);
    this.#moved[direction] += length;
  }

  protected async close(): Promise<void> {
    await this.#changes.idle();
    await runAll([() => this.#gapBytes.release(), () => this.#bounce.dispose(), () => this.#file.close()]);
  }
}

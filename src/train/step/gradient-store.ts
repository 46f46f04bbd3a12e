// Gradients between backward and the optimizer: one f32 sum for each parameter, in RAM, or on disk and in RAM only while
// a stage adds to them or its parameters are stepped. What was in RAM last stays there until its room is needed.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { zeroTensor } from "../../backend/ggml/transfer.ts";
import { runAll, undoAfter } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { RingArena, type Span } from "../../memory/ring.ts";
import type { Region, Store } from "../../memory/store.ts";
import type { Parameter, Parameters } from "../open/parameters.ts";

const pages = (elements: number) => wholeBlocks(elements * 4);

/** Gradients in RAM for a while. Give them back with {@link Gradients.close} or {@link Gradients.release}. */
export interface OpenGradients {
  readonly parameters: readonly Parameter[];
  /** f32 memory of each, in their order. */
  readonly buffers: readonly NativeBuffer[];
  /** Those of them that hold nothing yet, though they count as zero: to be overwritten instead of added to. */
  readonly fresh?: ReadonlySet<Parameter>;
  readonly span: Span | undefined;
}

/** Sums that are in RAM though nobody adds to them. */
interface Kept {
  /** By the parameter's index. */
  readonly buffers: Map<number, NativeBuffer>;
  readonly span: Span;
  /** Being written, or borrowed. */
  uses: number;
}

/**
 * RAM for gradients whose home is disk: the largest unit's, and more where two smaller ones can overlap; with `room` so
 * much that some can be written and stepped while others are added to. Bytes.
 */
export function gradientPoolBytes({ all }: Parameters, room: boolean): number {
  const units = new Map<number, number>();
  for (const p of all) {
    for (const { unit } of p.uses) units.set(unit, (units.get(unit) ?? 0) + pages(p.elements));
  }
  const sizes = [...units.values()].sort((a, b) => b - a);
  const median = sizes[Math.floor(sizes.length / 2)] ?? 0;
  const largest = sizes[0] ?? 0;
  return room ? Math.min(largest + 4 * median, sum(sizes)) : Math.max(largest, 2 * median);
}

export class Gradients {
  readonly #regions: readonly Region[];
  readonly #pool: { memory: Allocation; ring: RingArena } | undefined;
  /** Parameters nothing was added to since the last step: what their regions hold counts as zeros. */
  readonly #fresh = new Set<number>();
  readonly #headers = new HeaderArena(1);
  /** The oldest first. */
  readonly #kept: Kept[] = [];
  /** Calls that wait for room. */
  #waiting = 0;

  private constructor(regions: readonly Region[], pool: { memory: Allocation; ring: RingArena } | undefined) {
    this.#regions = regions;
    this.#pool = pool;
    this.restart();
  }

  /** Takes the memory. Throws BudgetError, IoError; nothing is left behind then. */
  static async open(options: {
    parameters: Parameters;
    store: Store;
    cpu: Device;
    ledger: Ledger;
    /** Of the RAM, where they live on disk; {@link gradientPoolBytes}. */
    poolBytes: number;
  }): Promise<Gradients> {
    const { parameters, store, cpu, ledger, poolBytes } = options;
    const regions: Region[] = [];
    let memory: Allocation | undefined;
    try {
      if (store.tier === "disk")
        memory = Allocation.take(ledger, "cpu", cpu.memory, poolBytes, "gradient slots");
      for (const p of parameters.all) regions.push(await store.allocate(p.elements * 4, "gradients"));
      return new Gradients(
        regions,
        memory && { memory, ring: new RingArena(memory.buffer.size, { tier: "cpu" }) },
      );
    } catch (error) {
      return await undoAfter(error, [
        () => memory?.dispose(),
        ...regions.map((region) => () => region.free()),
      ]);
    }
  }

  /** All sums are zero again. */
  restart(): void {
    for (const index of this.#regions.keys()) this.#fresh.add(index);
  }

  /** The sums of some parameters, to be added to; or to be overwritten, if `overwrites` says that the caller can. */
  async open(
    parameters: readonly Parameter[],
    { overwrites, signal }: { overwrites?: (p: Parameter) => boolean; signal?: AbortSignal | undefined } = {},
  ): Promise<OpenGradients> {
    for (const { buffers } of this.#kept) for (const p of parameters) buffers.delete(p.index);
    const opened = await this.#take(parameters, signal);
    const fresh = new Set<Parameter>();
    try {
      for (const [i, p] of parameters.entries()) {
        const buffer = opened.buffers[i] as NativeBuffer;
        if (this.#fresh.has(p.index)) {
          if (overwrites?.(p)) fresh.add(p);
          else await this.#clear(buffer);
        } else if (opened.span) await this.#region(p).read(buffer, 0, 0, p.elements * 4, signal);
      }
      return { ...opened, fresh };
    } catch (error) {
      this.release(opened);
      throw error;
    }
  }

  /** The sums of some parameters, to be read. Give them back with {@link release}. */
  async borrow(parameters: readonly Parameter[], signal?: AbortSignal): Promise<OpenGradients> {
    const kept = this.#kept.find(({ buffers }) => parameters.every((p) => buffers.has(p.index)));
    if (kept) {
      const buffers = parameters.map((p) => kept.buffers.get(p.index) as NativeBuffer);
      return { parameters, buffers, span: { ...kept.span, release: this.#use(kept) } };
    }
    const opened = await this.#take(parameters, signal);
    try {
      for (const [i, p] of parameters.entries()) {
        if (!opened.span) continue;
        await this.#region(p).read(opened.buffers[i] as NativeBuffer, 0, 0, p.elements * 4, signal);
      }
      return opened;
    } catch (error) {
      this.release(opened);
      throw error;
    }
  }

  /**
   * The sums have been added to: those that live on disk are written there. They may be opened or borrowed again at once:
   * they stay in RAM meanwhile, or are read after they have been written.
   */
  async close(opened: OpenGradients): Promise<void> {
    for (const p of opened.parameters) this.#fresh.delete(p.index);
    const { parameters, buffers, span } = opened;
    if (!span) return;
    const indexed = parameters.map((p, i) => [p.index, buffers[i] as NativeBuffer] as const);
    const kept: Kept = { buffers: new Map(indexed), span, uses: 0 };
    this.#kept.push(kept);
    const over = this.#use(kept);
    try {
      await Promise.all(
        parameters.map((p, i) => this.#region(p).write(buffers[i] as NativeBuffer, 0, 0, p.elements * 4)),
      );
    } catch (error) {
      kept.buffers.clear();
      throw error;
    } finally {
      over();
    }
  }

  /** Gives back gradients that were only read. */
  release(opened: OpenGradients): void {
    opened.span?.release();
  }

  async #take(parameters: readonly Parameter[], signal?: AbortSignal): Promise<OpenGradients> {
    if (!this.#pool) {
      const buffers = parameters.map((p) => this.#region(p).buffer as NativeBuffer);
      return { parameters, buffers, span: undefined };
    }
    const { memory, ring } = this.#pool;
    const sizes = parameters.map((p) => pages(p.elements));
    const bytes = sum(sizes);
    const span = this.#makeRoom(ring, bytes) ?? (await this.#waitForRoom(ring, bytes, signal));
    let at = span.offset;
    const buffers = parameters.map((p, i) => {
      const buffer = memory.buffer.part(at, p.elements * 4);
      at += sizes[i] as number;
      return buffer;
    });
    return { parameters, buffers, span };
  }

  /** Forgets no more of what is kept than is needed. */
  #makeRoom(ring: RingArena, bytes: number): Span | undefined {
    let span = ring.allocate(bytes);
    for (const kept of [...this.#kept]) {
      if (span) break;
      if (kept.uses > 0) continue;
      this.#forget(kept);
      span = ring.allocate(bytes);
    }
    return span;
  }

  async #waitForRoom(ring: RingArena, bytes: number, signal: AbortSignal | undefined): Promise<Span> {
    this.#waiting++;
    try {
      return await ring.waitFor(bytes, signal);
    } finally {
      this.#waiting--;
    }
  }

  /** Returns what ends the use. */
  #use(kept: Kept): () => void {
    kept.uses++;
    let over = false;
    return () => {
      if (over) return;
      over = true;
      kept.uses--;
      if (kept.uses === 0 && (this.#waiting > 0 || kept.buffers.size === 0)) this.#forget(kept);
    };
  }

  #forget(kept: Kept): void {
    this.#kept.splice(this.#kept.indexOf(kept), 1);
    kept.span.release();
  }

  async #clear(buffer: NativeBuffer): Promise<void> {
    this.#headers.reset();
    await zeroTensor(this.#headers.bind(buffer, 0, "i8", [buffer.size]));
  }

  #region(p: Parameter): Region {
    return this.#regions[p.index] as Region;
  }

  async dispose(): Promise<void> {
    await runAll([
      () => this.#headers.dispose(),
      ...this.#regions.map((region) => () => region.free()),
      () => this.#pool?.memory.dispose(),
    ]);
  }
}

function sum(sizes: readonly number[]): number {
  return sizes.reduce((a, b) => a + b, 0);
}

// Steps one parameter's training state, wherever it lives, slice by slice: while one is stepped, the next is read and the
// last written. What the processor can address is stepped in place. The arithmetic is the rule's.
import { ConfigError, DisposedError, throwIfAborted } from "../../errors.ts";
import type { BufferType } from "../../ggml/buffer.ts";
import type { Device } from "../../ggml/device.ts";
import { HeaderArena } from "../../ggml/graph.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { type Slab, UpdateGraph } from "./kernels.ts";
import { BLOCK, checkParams, MAX_CONSTANTS, pieces, type StepParams, type UpdateRule } from "./rule.ts";
import {
  checkState,
  partsOf,
  SLICE_ELEMENTS,
  SLOTS,
  scratchBytes,
  sliceLength,
  slotBytes,
  Traffic,
  wholeTiles,
} from "./slots.ts";
import { type ParameterState, regionsOf } from "./state.ts";

export interface UpdaterOptions {
  /** Does the arithmetic. */
  readonly cpu: Device;
  readonly ledger: Ledger;
  readonly rule: UpdateRule;
  /** Elements read, stepped and written at a time, rounded up to multiples of 65,536; 4 Mi if absent. */
  readonly sliceElements?: number;
  /** Host memory of the slots, for example pinned memory of the GPU that holds the states; plain memory if absent. */
  readonly memory?: BufferType;
}

/** A parameter's gradient: f32, one after another from byte `offset` on, a multiple of 4, of host memory. */
export type Gradient = Slab;

/** Tensor headers a graph needs per block, with room to spare: the arena says so where it is not enough. */
const HEADERS_PER_BLOCK = 128;

/** One after another; see {@link StateUpdater.step}. Dispose it before its device and ledger. */
export class StateUpdater {
  readonly sliceElements: number;
  readonly #o: UpdaterOptions;
  /** Constants, a block of the scaled gradient, the rule's scratch. */
  readonly #scratch: Allocation;
  /** A slice's graph is built while the one before it computes. */
  readonly #arenas: readonly [HeaderArena, HeaderArena];
  #slots: Allocation | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #disposed = false;

  /** Throws BudgetError where the scratch memory does not fit, ConfigError for a slice that is not a size. */
  constructor(options: UpdaterOptions) {
    this.#o = options;
    this.sliceElements = wholeTiles(options.sliceElements ?? SLICE_ELEMENTS);
    const { cpu, ledger, rule } = options;
    this.#scratch = Allocation.take(ledger, "cpu", cpu.memory, scratchBytes(rule), "optimizer scratch");
    const headers = (Math.ceil(this.sliceElements / BLOCK) + 1) * HEADERS_PER_BLOCK;
    this.#arenas = [new HeaderArena(headers, { graph: true }), new HeaderArena(headers, { graph: true })];
  }

  /** Takes the memory that stepping `state` needs now. Throws BudgetError where it does not fit. */
  prepare(state: ParameterState): Promise<void> {
    return this.#next(async () => {
      checkState(this.#o.rule, state);
      this.#takeSlots(state);
    });
  }

  /**
   * One step of the rule: moments and master copy are updated, then the working copy is written. Steps asked for at the
   * same time run one after another. The result does not depend on where the regions are or on the size of slices, bit
   * for bit. Gradients that are not finite go into the weights: look at them first (gradientNorm2).
   *
   * The signal counts until the first change. A failure before that leaves everything as it was; one after it marks all
   * regions of the state as torn, and their further use throws IoError until they have been written again.
   *
   * Throws ConfigError for parameters or sizes that do not fit each other, IoError, BudgetError, AbortError.
   */
  step(state: ParameterState, gradient: Gradient, params: StepParams, signal?: AbortSignal): Promise<void> {
    return this.#next(() => this.#step(state, gradient, params, signal));
  }

  /** Waits for the steps asked for, then frees the memory. May be called twice. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#last;
    this.#scratch.dispose();
    this.#slots?.dispose();
    for (const arena of this.#arenas) arena.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #next<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(() => {
      if (this.#disposed) throw new DisposedError("the optimizer's updater");
      return task();
    });
    this.#last = result.catch(() => {});
    return result;
  }

  async #step(
    state: ParameterState,
    gradient: Gradient,
    params: StepParams,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    checkParams(params);
    checkState(this.#o.rule, state);
    checkGradient(state, gradient);
    throwIfAborted(signal);
    this.#takeSlots(state);
    const constants = this.#o.rule.constants(params);
    if (constants.length > MAX_CONSTANTS) throw new ConfigError(`${constants.length} constants are too many`);
    new Float32Array(this.#scratch.buffer.view(0, constants.length * 4)).set(constants);
    const length = sliceLength(this.sliceElements, state.elements);
    const run = new Traffic(state, partsOf(this.#o.rule, state), this.#slots?.buffer, length);
    try {
      await this.#pipeline(run, gradient, params, signal);
    } catch (error) {
      await run.settled();
      if (run.changed) {
        const why = error instanceof Error ? error.message : String(error);
        const reason = `step ${params.step} of ${this.#o.rule.name} on ${state.name} broke off half done (${why})`;
        for (const region of regionsOf(state)) region.markTorn(reason);
      }
      throw error;
    }
  }

  /** Reads of the slice behind and writes of the slice before go on while a slice computes. */
  async #pipeline(run: Traffic, gradient: Gradient, params: StepParams, signal: AbortSignal | undefined) {
    const { cpu } = this.#o;
    run.read(0);
    let graph = this.#build(run, 0, gradient, params);
    for (let i = 0; i < run.count; i++) {
      if (i + 1 < run.count) {
        await run.written(i + 1 - SLOTS); // the slot's last user
        run.read(i + 1);
      }
      await run.hasRead(i);
      if (!run.changed) throwIfAborted(signal);
      if (run.inPlace) run.changed = true;
      const computed = run.track(cpu.compute(graph));
      if (i + 1 < run.count) graph = this.#build(run, i + 1, gradient, params);
      await computed;
      run.write(i);
    }
    for (let i = Math.max(0, run.count - SLOTS); i < run.count; i++) await run.written(i);
  }

  /** The graph of a slice; the arena of the one before the last is free by now. */
  #build(run: Traffic, index: number, gradient: Gradient, params: StepParams): bigint {
    const { cpu, rule } = this.#o;
    const arena = this.#arenas[index % 2] as HeaderArena;
    arena.reset();
    const g = new UpdateGraph(cpu, arena);
    const memory = this.#scratch.buffer;
    const constants: Slab = { buffer: memory, offset: 0 };
    const scaled: Slab = { buffer: memory, offset: MAX_CONSTANTS * 4 };
    const scratch: Slab = { buffer: memory, offset: MAX_CONSTANTS * 4 + BLOCK * 4 };
    const first = index * run.length;
    const elements = run.elements(index);
    const { gradScale = 1 } = params;
    // Threads wait for one another at every operation: without scratch memory a slice is one block.
    const block = gradScale === 1 && rule.scratch === 0 ? elements : BLOCK;
    for (let at = 0; at < elements; at += block) {
      const count = Math.min(block, elements - at);
      const [weights, ...others] = run.parts.map((part) => run.slab(part, index, at)) as [Slab, ...Slab[]];
      const moments = others.slice(0, rule.moments.length);
      let grad: Slab = { buffer: gradient.buffer, offset: gradient.offset + (first + at) * 4 };
      if (gradScale !== 1) {
        for (const { first: from, dims } of pieces(count)) {
          g.put(g.scale(g.at(grad, dims, "f32", from), gradScale), scaled, from);
        }
        grad = scaled;
      }
      rule.build(g, { count, weights, gradient: grad, moments, scratch, constants }, params);
      const { working } = run.state;
      const copy = others[rule.moments.length];
      if (!working || !copy) continue;
      for (const { first: from, dims } of pieces(count)) {
        g.write(g.at(weights, dims, "f32", from), g.at(copy, dims, working.dtype, from));
      }
    }
    return g.handle;
  }

  #takeSlots(state: ParameterState): void {
    const { ledger, cpu, memory, rule } = this.#o;
    const staged = partsOf(rule, state).filter((part) => !part.inPlace);
    const formats = staged.map((part) => part.format);
    const bytes = slotBytes(formats, state.elements, sliceLength(this.sliceElements, state.elements));
    if (bytes <= (this.#slots?.buffer.size ?? 0)) return;
    this.#slots?.dispose();
    this.#slots = undefined;
    this.#slots = Allocation.take(ledger, "cpu", memory ?? cpu.memory, bytes, "optimizer slots");
  }
}

/** Throws {@link ConfigError} for a gradient that is not in host memory, in whole. */
function checkGradient(state: ParameterState, { buffer, offset }: Gradient): void {
  const bytes = state.elements * 4;
  if (!buffer.type.host) {
    throw new ConfigError(`${state.name}: its gradient must be in host memory, not ${buffer.type.name}`);
  }
  if (Number.isSafeInteger(offset) && offset >= 0 && offset % 4 === 0 && offset + bytes <= buffer.size)
    return;
  throw new ConfigError(
    `${state.name}: a gradient of ${bytes} bytes at ${offset} is not in a buffer of ${buffer.size} bytes`,
  );
}

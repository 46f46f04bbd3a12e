// Steps one parameter's training state, wherever it lives, slice by slice: while one is stepped, the next is read and the
// last written. What the processor can address is stepped in place. The arithmetic is the rule's.

import type { Device } from "../../backend/ggml/device.ts";
import { disposeInTurn } from "../../base/async/cleanup.ts";
import { OneByOne } from "../../base/async/one-by-one.ts";
import { ConfigError, DisposedError, throwIfAborted } from "../../base/errors.ts";
import { Allocation, type MemorySource } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { sharedMemory } from "../../memory/shared-memory.ts";
import { AdamwCrew } from "./adamw-crew.ts";
import { GraphStepper } from "./graph-stepper.ts";
import { LoopStepper } from "./loop-stepper.ts";
import { checkParams, type StepParams, type UpdateRule } from "./rules/rule.ts";
import {
  checkState,
  partsOf,
  SLICE_ELEMENTS,
  SLOTS,
  sliceLength,
  slotBytes,
  Traffic,
  wholeTiles,
} from "./slots.ts";
import { type ParameterState, regionsOf } from "./state.ts";
import type { Gradient, Stepper } from "./stepper.ts";

export interface UpdaterOptions {
  /** Does the arithmetic. */
  readonly cpu: Device;
  readonly ledger: Ledger;
  readonly rule: UpdateRule;
  /** Elements that pass through slots at a time, rounded up to multiples of 65,536; 4 Mi if absent. */
  readonly sliceElements?: number;
  /** Host memory of the slots, for example pinned memory of the GPU that holds the states; see shared-memory.ts if absent. */
  readonly memory?: MemorySource;
  /** The threads of a {@link LoopRule}; the device's if absent. */
  readonly crew?: AdamwCrew;
}

export interface StepSignal {
  readonly signal?: AbortSignal | undefined;
  /** It counts after the first change too: the state is one that may be left half made. */
  readonly toTheEnd?: boolean | undefined;
}

export type { Gradient };

/** One after another; see {@link StateUpdater.step}. Dispose it before its device and ledger. */
export class StateUpdater {
  readonly sliceElements: number;
  readonly #o: UpdaterOptions;
  readonly #stepper: Stepper;
  #slots: Allocation | undefined;
  readonly #steps = new OneByOne();
  #disposed = false;

  /** Throws BudgetError where the scratch memory does not fit, ConfigError for a slice that is not a size. */
  constructor(options: UpdaterOptions) {
    this.#o = options;
    this.sliceElements = wholeTiles(options.sliceElements ?? SLICE_ELEMENTS);
    const { cpu, ledger, rule } = options;
    this.#stepper =
      "build" in rule
        ? new GraphStepper(cpu, ledger, rule, this.sliceElements)
        : new LoopStepper(cpu, rule, options.crew ?? AdamwCrew.of(cpu));
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
   * The signal counts until the first change, unless it is told otherwise. A failure before that leaves everything as it
   * was; one after it marks all regions of the state as torn, and their further use throws IoError until they have been
   * written again.
   *
   * Throws ConfigError for parameters or sizes that do not fit each other, IoError, BudgetError, AbortError.
   */
  step(state: ParameterState, gradient: Gradient, params: StepParams, until: StepSignal = {}): Promise<void> {
    return this.#next(() => this.#step(state, gradient, params, until));
  }

  /** Waits for the steps asked for, then frees the memory. May be called twice. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#steps.idle();
    await disposeInTurn([this.#stepper, this.#slots]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #next<T>(task: () => Promise<T>): Promise<T> {
    return this.#steps.run(async () => {
      if (this.#disposed) throw new DisposedError("the optimizer's updater");
      return task();
    });
  }

  async #step(
    state: ParameterState,
    gradient: Gradient,
    params: StepParams,
    until: StepSignal,
  ): Promise<void> {
    checkParams(params);
    checkState(this.#o.rule, state);
    checkGradient(state, gradient);
    throwIfAborted(until.signal);
    this.#takeSlots(state);
    await this.#stepper.begin(params);
    const parts = partsOf(this.#o.rule, state);
    const { inPlaceElements } = this.#stepper;
    const slice = parts.every((part) => part.inPlace) ? inPlaceElements : this.sliceElements;
    const run = new Traffic(state, parts, this.#slots?.buffer, sliceLength(slice, state.elements));
    try {
      await this.#pipeline(run, gradient, params, until);
    } catch (error) {
      await run.settled();
      if (run.changed) {
        const reason = `step ${params.step} of ${this.#o.rule.name} on ${state.name} broke off half done (${message(error)})`;
        for (const region of regionsOf(state)) region.markTorn(reason);
      }
      throw error;
    }
  }

  /** Reads of the slice behind and writes of the slice before go on while a slice computes. */
  async #pipeline(run: Traffic, gradient: Gradient, params: StepParams, { signal, toTheEnd }: StepSignal) {
    const stepper = this.#stepper;
    run.read(0);
    let step = stepper.prepare(run, 0, gradient, params);
    for (let i = 0; i < run.count; i++) {
      if (i + 1 < run.count) {
        await run.written(i + 1 - SLOTS); // the slot's last user
        run.read(i + 1);
      }
      await run.hasRead(i);
      if (!run.changed || toTheEnd) throwIfAborted(signal);
      run.begin(i);
      const computed = run.track(step());
      if (i + 1 < run.count) step = stepper.prepare(run, i + 1, gradient, params);
      await computed.catch((error: unknown) => {
        for (const kept of run.state.kept?.values() ?? []) kept.torn = message(error);
        throw error;
      });
      run.write(i);
    }
    for (let i = Math.max(0, run.count - SLOTS); i < run.count; i++) await run.written(i);
  }

  #takeSlots(state: ParameterState): void {
    const { ledger, memory, rule } = this.#o;
    const staged = partsOf(rule, state).filter((part) => !part.inPlace);
    const formats = staged.map((part) => part.format);
    const bytes = slotBytes(formats, state.elements, sliceLength(this.sliceElements, state.elements));
    if (bytes <= (this.#slots?.buffer.size ?? 0)) return;
    this.#slots?.dispose();
    this.#slots = undefined;
    this.#slots = Allocation.take(ledger, "cpu", memory ?? sharedMemory, bytes, "optimizer slots");
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
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

// Updates of parameters under way beside the passes: those needed soonest first, a few at a time. A pass waits here for
// the weights it is about to use.
import { DisposedError } from "../errors.ts";
import type { Gradients } from "./gradient-store.ts";
import type { StepParams } from "./optimizer/rule.ts";
import type { ParameterState } from "./optimizer/state.ts";
import type { StateUpdater } from "./optimizer/updater.ts";
import type { Parameter } from "./parameters.ts";

interface Job {
  readonly parameter: Parameter;
  readonly params: StepParams;
  readonly done: PromiseWithResolvers<void>;
}

interface PromiseWithResolvers<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(error: unknown): void;
}

function deferred(): PromiseWithResolvers<void> {
  let resolve: () => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {}); // reported to those who wait
  return { promise, resolve, reject };
}

export class UpdateQueue {
  readonly #updaters: readonly StateUpdater[];
  readonly #states: readonly ParameterState[];
  readonly #gradients: Gradients;
  /** In the order of need: the first stage's parameters first. */
  readonly #waiting: Job[] = [];
  readonly #pending = new Map<number, Promise<void>>();
  readonly #running = new Set<StateUpdater>();
  #failure: { error: unknown } | undefined;
  #closed = false;

  /** One updater for each update that may be under way at a time. */
  constructor(updaters: readonly StateUpdater[], states: readonly ParameterState[], gradients: Gradients) {
    this.#updaters = updaters;
    this.#states = states;
    this.#gradients = gradients;
  }

  /** Steps a parameter with its present gradient, which must not change until that is done. */
  add(parameter: Parameter, params: StepParams): void {
    const job: Job = { parameter, params, done: deferred() };
    this.#pending.set(parameter.index, job.done.promise);
    const at = this.#waiting.findIndex((other) => other.parameter.index > parameter.index);
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, job);
    for (const updater of this.#updaters) void this.#work(updater);
  }

  /** Resolves when none of these parameters is about to change. Throws the error of an update that failed. */
  async done(parameters: readonly Parameter[]): Promise<void> {
    for (const p of parameters) await this.#pending.get(p.index);
    if (this.#failure) throw this.#failure.error;
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#pending.values());
    if (this.#failure) throw this.#failure.error;
  }

  get busy(): boolean {
    return this.#pending.size > 0;
  }

  /** Updates can be made again: what failed has been written anew. */
  forgive(): void {
    this.#failure = undefined;
  }

  async dispose(): Promise<void> {
    this.#closed = true;
    for (const job of this.#waiting.splice(0)) this.#end(job, new DisposedError("the trainer"));
    await Promise.allSettled(this.#pending.values());
  }

  async #work(updater: StateUpdater): Promise<void> {
    if (this.#running.has(updater)) return;
    this.#running.add(updater);
    try {
      for (let job = this.#waiting.shift(); job; job = this.#waiting.shift()) {
        if (this.#failure || this.#closed) {
          this.#end(job, this.#failure?.error ?? new DisposedError("the trainer"));
          continue;
        }
        try {
          await this.#step(updater, job);
          this.#end(job);
        } catch (error) {
          this.#failure ??= { error };
          this.#end(job, error);
        }
      }
    } finally {
      this.#running.delete(updater);
    }
  }

  async #step(updater: StateUpdater, { parameter, params }: Job): Promise<void> {
    const gradient = await this.#gradients.borrow([parameter]);
    try {
      const buffer = gradient.buffers[0];
      const state = this.#states[parameter.index];
      if (!buffer || !state) throw new Error(`${parameter.name} has no state`);
      await updater.step(state, { buffer, offset: 0 }, params);
    } finally {
      this.#gradients.release(gradient);
    }
  }

  #end(job: Job, error?: unknown): void {
    if (this.#pending.get(job.parameter.index) === job.done.promise)
      this.#pending.delete(job.parameter.index);
    if (error === undefined) job.done.resolve();
    else job.done.reject(error);
  }
}

// Updates of parameters under way beside the passes: those needed soonest first, a few at a time. A pass waits here for
// the weights it is about to use.
import { DisposedError, IoError, SpillwayError } from "../errors.ts";
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
    for (const p of parameters) {
      await this.#pending.get(p.index)?.catch((error: unknown) => {
        throw this.#failure?.error ?? error;
      });
    }
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

  /** What `what` left behind must not be used: every later call throws, until {@link forgive}. */
  fail(error: unknown, what: string): void {
    this.#failure ??= { error: lost(error, what) };
  }

  /** Whether the weights are lost. */
  get failed(): boolean {
    return this.#failure !== undefined;
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
          this.fail(error, `the update of ${job.parameter.name} to step ${job.params.step}`);
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

/** The weights are those of two steps now: the error says so, with what led to it. */
function lost(error: unknown, what: string): SpillwayError {
  const path = error instanceof IoError ? error.path : undefined;
  const text = error instanceof Error ? error.message : String(error);
  const why = path !== undefined && text.startsWith(`${path}: `) ? text.slice(path.length + 2) : text;
  const message = `${what} did not complete, so the training state is lost: resume from a checkpoint (${why})`;
  if (error instanceof SpillwayError && !(error instanceof IoError))
    return new SpillwayError(error.code, message, { cause: error });
  return new IoError(message, path, { cause: error });
}

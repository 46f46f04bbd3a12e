// Updates of parameters under way beside the passes: those needed soonest first, a few at a time. A pass waits here for
// the weights it is about to use. Some may be made ahead, before it is known whether the step will be.
import { DisposedError, IoError, SpillwayError } from "../../base/errors.ts";
import type { Parameter } from "../open/parameters.ts";
import type { Draft } from "../optimizer/draft.ts";
import type { StepParams } from "../optimizer/rules/rule.ts";
import type { ParameterState } from "../optimizer/state.ts";
import type { StateUpdater } from "../optimizer/updater.ts";
import type { Gradients } from "./gradient-store.ts";

interface Job {
  readonly parameter: Parameter;
  params: StepParams;
  readonly done: PromiseWithResolvers<void>;
  /** Of an update that is made ahead. */
  ahead?: Ahead | undefined;
}

interface Ahead {
  readonly job: Job;
  readonly draft: Draft;
  state: "waiting" | "running" | "made" | "failed";
  error?: unknown;
  /** Unknown while the norm of the gradient is. */
  decision?: "keep" | "redo" | "drop";
  /** Resolves when it is neither waiting nor under way. */
  readonly over: PromiseWithResolvers<void>;
}

export interface UpdateQueueOptions {
  /** One for each update that may be under way at a time. */
  readonly updaters: readonly StateUpdater[];
  readonly states: readonly ParameterState[];
  readonly gradients: Gradients;
  /** By the parameter's index; those without one are not updated ahead. */
  readonly drafts?: ReadonlyMap<number, Draft>;
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
  readonly #o: UpdateQueueOptions;
  /** In the order of need: the first stage's parameters first. */
  readonly #waiting: Job[] = [];
  readonly #pending = new Map<number, Promise<void>>();
  readonly #running = new Set<StateUpdater>();
  /** Updates made ahead that are not decided. */
  readonly #undecided: Ahead[] = [];
  #stopping = new AbortController();
  #failure: { error: unknown } | undefined;
  #closed = false;

  constructor(options: UpdateQueueOptions) {
    this.#o = options;
  }

  /** Steps a parameter with its present gradient, which must not change until that is done. */
  add(parameter: Parameter, params: StepParams): void {
    this.#enqueue({ parameter, params, done: deferred() });
  }

  /** Whether anything can be updated ahead. */
  get drafts(): boolean {
    return (this.#o.drafts?.size ?? 0) > 0;
  }

  /**
   * As {@link add}, before it is known whether the step will be made: {@link keep} or {@link drop} has to follow, and the
   * parameter counts as changing until then. Does nothing for a parameter that has no second place.
   */
  addAhead(parameter: Parameter, params: StepParams): void {
    const draft = this.#o.drafts?.get(parameter.index);
    if (!draft) return;
    const job: Job = { parameter, params, done: deferred() };
    job.ahead = { job, draft, state: "waiting", over: deferred() };
    this.#undecided.push(job.ahead);
    this.#enqueue(job);
  }

  /**
   * The step is made: what was updated ahead counts from now on, the rest follows. Returns the indices of these
   * parameters. Throws the error of an update ahead that failed; nothing is decided then.
   */
  keep(): ReadonlySet<number> {
    return this.#decide("keep", ({ draft, job }) => {
      draft.keep();
      this.#end(job);
    });
  }

  /**
   * The step is made in another way: what was updated ahead is taken back, and each parameter updated as `params` says.
   * Returns and throws as {@link keep}.
   */
  redo(params: (parameter: Parameter) => StepParams): ReadonlySet<number> {
    for (const { job } of this.#undecided) job.params = params(job.parameter);
    return this.#decide("redo", ({ job }) => this.#enqueue(job));
  }

  #decide(decision: "keep" | "redo", made: (ahead: Ahead) => void): ReadonlySet<number> {
    const failed = this.#undecided.find(({ state }) => state === "failed");
    if (failed) throw failed.error;
    const decided = this.#undecided.splice(0);
    for (const ahead of decided) {
      ahead.decision = decision;
      if (ahead.state === "waiting") ahead.job.ahead = undefined; // it can be made in place now
      if (ahead.state === "made") made(ahead);
    }
    if (decision !== "keep") this.#stopAhead();
    return new Set(decided.map(({ job }) => job.parameter.index));
  }

  /**
   * The step is not made: master copies and moments are what they were. Returns the parameters whose copies that compute
   * may not be.
   */
  async drop(): Promise<Parameter[]> {
    this.#stopAhead();
    const begun: Parameter[] = [];
    for (const ahead of this.#undecided.splice(0)) {
      const { job, draft, over } = ahead;
      const at = this.#waiting.indexOf(job);
      if (at >= 0) this.#waiting.splice(at, 1);
      else if (ahead.state !== "waiting") {
        ahead.decision = "drop";
        await over.promise;
        await draft.drop();
        begun.push(job.parameter);
      }
      this.#end(job);
    }
    return begun;
  }

  #stopAhead(): void {
    this.#stopping.abort();
    this.#stopping = new AbortController();
  }

  #enqueue(job: Job): void {
    const { index } = job.parameter;
    this.#pending.set(index, job.done.promise);
    const at = this.#waiting.findIndex((other) => other.parameter.index > index);
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, job);
    for (const updater of this.#o.updaters) void this.#work(updater);
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
          if (await this.#makeAhead(updater, job)) continue;
          await this.#step(updater, job, this.#state(job));
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

  /** Resolves to false for an update that is to be made in place. */
  async #makeAhead(updater: StateUpdater, job: Job): Promise<boolean> {
    const { ahead } = job;
    if (!ahead) return false;
    if (ahead.state === "waiting") {
      ahead.state = "running";
      try {
        ahead.draft.begin();
        await this.#step(updater, job, ahead.draft.state, this.#stopping.signal);
        ahead.state = "made";
      } catch (error) {
        ahead.state = "failed";
        ahead.error = error;
      }
      ahead.over.resolve();
      if (ahead.decision === undefined || ahead.decision === "drop") return true;
      if (ahead.decision === "keep" && ahead.state === "made") {
        ahead.draft.keep();
        this.#end(job);
        return true;
      }
    }
    await ahead.draft.drop();
    return false;
  }

  /** With a signal the state may be left half made. */
  async #step(
    updater: StateUpdater,
    { parameter, params }: Job,
    state: ParameterState,
    signal?: AbortSignal,
  ): Promise<void> {
    const gradient = await this.#o.gradients.borrow([parameter]);
    try {
      const buffer = gradient.buffers[0];
      if (!buffer) throw new Error(`${parameter.name} has no gradient`);
      await updater.step(state, { buffer, offset: 0 }, params, signal && { signal, toTheEnd: true });
    } finally {
      this.#o.gradients.release(gradient);
    }
  }

  #state({ parameter }: Job): ParameterState {
    const state = this.#o.states[parameter.index];
    if (!state) throw new Error(`${parameter.name} has no state`);
    return state;
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

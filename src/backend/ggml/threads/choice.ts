// How many threads compute a kind of work, chosen from what its last runs took. Pure: it is told times and keeps numbers;
// threads.ts beside it measures and owns the threads.
//
// Threads that share a graph wait for one another at every operation, so the best number depends on the work's size and on
// what else the machine does, and changes while a program runs. Every number is judged by the time it needs for an amount of
// work. The current one is measured all the time; others are tried now and then, and a trial is made only when the time it
// is expected to lose is a small share of the time computed since.

/** One run of something that several threads can share. */
export interface Work {
  /** What statistics count it as: "decode", "prefill", "backward" ... */
  readonly kind: string;
  /** What else sets its runs apart: runs of one kind and detail need about the same time for the same amount. */
  readonly detail?: string;
  /** Its size, in multiply-adds or elements: runs of one kind are compared by the time for an amount. */
  readonly amount: number;
}

/** What was computed with how many threads. */
export interface ThreadUse {
  readonly kind: string;
  /** The number used now by most of the kind's work. */
  readonly threads: number;
  /** Seconds computed with each number of threads. */
  readonly seconds: Readonly<Record<number, number>>;
}

/** The share of computing time that trials may lose. */
const LOSS_SHARE = 0.04;
/** A trial lasts so long, in seconds, or one run: longer than a scheduler's turn, so that a busy neighbour shows in it. */
const TRIAL_SECONDS = 0.02;
/** Runs with the current number between two trials, in trial lengths. */
const BETWEEN_TRIALS = 20;
/** A number that was wrong counts as a trial of at most so many trial lengths. */
const REGRETTED = 5;
/** Seconds of computing after which a measurement counts half. */
const HALF_LIFE = 0.25;
/** Another number must be better by this to be taken. */
const MARGIN = 0.97;
/** How much slower more threads are supposed to be until they have been tried, here or with other work. */
const UNTRIED_MORE = 2;
/**
 * Work of fewer multiply-adds, less than about 0.1 seconds on one core, begins with one thread: a hundred meetings beside a
 * busy neighbour take several times as long. Larger work loses less than it takes anyway.
 */
const LARGE = 2e9;
/** Work of up to this many times the amount counts as of about the same size. */
const SIMILAR = 8;

/** Recent time for recent work. */
interface Measured {
  amount: number;
  seconds: number;
}

interface Trial extends Measured {
  readonly threads: number;
}

interface State {
  readonly kind: string;
  amount: number;
  current: number;
  runs: number;
  readonly measured: Map<number, Measured>;
  /** Numbers in the order in which they were tried last. */
  readonly tried: Set<number>;
  trial: Trial | undefined;
  /** All runs since the current number was taken. */
  reign: Measured;
  /** Seconds that trials may lose; below 0 they have lost more than their share. */
  allowance: number;
  sinceTrial: number;
}

export class ThreadChoice {
  /** Ascending. */
  #numbers: readonly number[];
  readonly #states = new Map<string, State>();
  readonly #used = new Map<string, Map<number, number>>();

  /** Chooses among 1 to `most` threads; with `fixed` it is always `most`. */
  constructor(most: number, options: { fixed?: boolean } = {}) {
    this.#numbers = options.fixed ? [most] : numbersUpTo(most);
  }

  /** The most threads that may be chosen. */
  get most(): number {
    return this.#numbers.at(-1) as number;
  }

  get fixed(): boolean {
    return this.#numbers.length === 1;
  }

  /** The system does not give so many threads: the choice is among fewer from now on. Not for one thread. */
  refuse(threads: number): void {
    this.#numbers = this.#numbers.filter((n) => n < threads);
    this.#states.clear();
  }

  /** How many threads the next run of some work should have. */
  next(work: Work): number {
    if (this.fixed) return this.most;
    const state = this.#state(work);
    state.trial ??= this.#trial(state);
    return state.trial?.threads ?? state.current;
  }

  /** A run took so long. */
  record(work: Work, threads: number, seconds: number): void {
    const used = this.#used.get(work.kind) ?? new Map<number, number>();
    this.#used.set(work.kind, used);
    used.set(threads, (used.get(threads) ?? 0) + seconds);
    if (this.fixed || !(work.amount > 0) || !(seconds > 0)) return;
    const state = this.#state(work);
    const run = { amount: work.amount, seconds };
    state.amount = work.amount;
    if (state.trial?.threads === threads) this.#tryOn(state, state.trial, run);
    else if (threads === state.current) this.#goOn(state, run);
  }

  /** What was used so far, by kind, in the order of first use. */
  uses(): ThreadUse[] {
    return [...this.#used].map(([kind, seconds]) => {
      const now = new Map<number, number>();
      for (const state of this.#states.values())
        if (state.kind === kind) now.set(state.current, (now.get(state.current) ?? 0) + state.runs);
      const [threads] = [...(now.size > 0 ? now : seconds)].sort(([, a], [, b]) => b - a)[0] as [
        number,
        number,
      ];
      return { kind, threads, seconds: Object.fromEntries([...seconds].sort(([a], [b]) => a - b)) };
    });
  }

  #state(work: Work): State {
    // Work of other sizes may be best with other numbers; sizes within a factor of two share their experience.
    const key = `${work.kind} ${work.detail ?? ""} ${Math.floor(Math.log2(Math.max(1, work.amount)))}`;
    let state = this.#states.get(key);
    if (!state) {
      const { kind, amount } = work;
      const known = { measured: new Map<number, Measured>(), tried: new Set<number>() };
      const since = { reign: { amount: 0, seconds: 0 }, trial: undefined, allowance: 0, sinceTrial: 0 };
      state = { kind, amount, current: this.#first(work), runs: 0, ...known, ...since };
      this.#states.set(key, state);
    }
    return state;
  }

  /** What work of about the same size is computed with now; without any, all threads for large work, one for small. */
  #first({ amount }: Work): number {
    let nearest = SIMILAR;
    let found = amount >= LARGE ? this.most : 1;
    for (const state of this.#states.values()) {
      const apart = Math.max(amount / state.amount, state.amount / amount);
      if (apart > nearest || state.runs < 3) continue;
      nearest = apart;
      found = state.current;
    }
    return found;
  }

  /** A run with the current number. */
  #goOn(state: State, run: Measured): void {
    state.runs++;
    // The first run touches memory and fills caches, so it only says about how long runs are.
    const first = state.runs <= 2;
    const before = first ? undefined : state.measured.get(state.current);
    state.measured.set(state.current, before ? merged(before, run) : { ...run });
    if (state.runs === 2) state.allowance = Math.max(0.05, 1.5 * run.seconds);
    state.sinceTrial += run.seconds;
    if (!first) add(state.reign, run);
    const most = this.#others(state).reduce((sum, n) => sum + this.#loss(state, n), 0);
    const gained = state.allowance + run.seconds * LOSS_SHARE;
    state.allowance = Math.min(gained, Math.max(state.allowance, most));
    const { current, reign } = state;
    const longest = REGRETTED * Math.max(TRIAL_SECONDS, runSeconds(state));
    this.#decide(state);
    if (state.current === current) return;
    // A number that was taken for a lucky trial has lost time, too; one that was right for long has not.
    const lost = reign.seconds - reign.amount * cost(state, state.current);
    state.allowance -= Math.max(0, Math.min(lost, longest));
  }

  /** A run of a trial, which ends when it was long enough. */
  #tryOn(state: State, trial: Trial, run: Measured): void {
    add(trial, run);
    if (trial.seconds < TRIAL_SECONDS) return;
    state.trial = undefined;
    state.sinceTrial = 0;
    state.tried.delete(trial.threads);
    state.tried.add(trial.threads);
    state.measured.set(trial.threads, { amount: trial.amount, seconds: trial.seconds });
    const expected = trial.amount * cost(state, state.current);
    state.allowance -= Math.max(0, trial.seconds - expected);
    this.#decide(state);
  }

  /** Takes the number that was fastest when it was last measured, if it is by a margin. */
  #decide(state: State): void {
    if (state.runs < 2) return;
    let best = state.current;
    let least = cost(state, state.current) * MARGIN;
    for (const n of state.measured.keys()) {
      if (n === state.current || cost(state, n) >= least || !this.#numbers.includes(n)) continue;
      best = n;
      least = cost(state, n);
    }
    if (best === state.current) return;
    state.reign = { amount: 0, seconds: 0 };
    state.current = best;
  }

  /** The next trial, if one is due. */
  #trial(state: State): Trial | undefined {
    if (state.runs < 2) return undefined;
    const others = this.#others(state);
    const pause = BETWEEN_TRIALS * Math.max(TRIAL_SECONDS, runSeconds(state));
    // Fewer threads are tried at once: they lose little. More may lose much, so work that ends soon does without.
    const soon = state.sinceTrial < pause;
    const untried = others.filter((n) => !state.measured.has(n) && (n < state.current || !soon));
    const order = [...state.tried];
    const due =
      untried.length > 0 ? untried : !soon ? others.sort((a, b) => order.indexOf(a) - order.indexOf(b)) : [];
    const threads = due.find((n) => this.#loss(state, n) <= state.allowance);
    return threads === undefined ? undefined : { threads, amount: 0, seconds: 0 };
  }

  /** The numbers beside the current one, and one thread, nearest first. */
  #others({ current }: State): number[] {
    const at = this.#numbers.indexOf(current);
    const found = [this.#numbers[at - 1], this.#numbers[at + 1], 1].filter(
      (n) => n !== undefined && n !== current,
    );
    return [...new Set(found as number[])];
  }

  /** Seconds that a trial of a number would lose against the current one. */
  #loss(state: State, threads: number): number {
    const times = state.measured.has(threads)
      ? cost(state, threads) / cost(state, state.current)
      : threads < state.current
        ? state.current / threads
        : this.#elsewhere(threads);
    // A slow trial has fewer runs: it lasts no longer, but for its last run.
    const runs = Math.max(1, TRIAL_SECONDS / (runSeconds(state) * times));
    return Math.max(0, runs * runSeconds(state) * (times - 1));
  }

  /** How many times slower than the number in use a larger one was with other work: as bad as it was anywhere. */
  #elsewhere(threads: number): number {
    let worst = UNTRIED_MORE;
    for (const state of this.#states.values())
      if (state.current < threads && state.measured.has(threads) && state.measured.has(state.current))
        worst = Math.max(worst, cost(state, threads) / cost(state, state.current));
    return worst;
  }
}

/** Seconds for a unit of work. */
function cost({ measured }: State, threads: number): number {
  const { amount, seconds } = measured.get(threads) as Measured;
  return seconds / amount;
}

/** Seconds of a run with the current number. */
function runSeconds(state: State): number {
  return state.amount * cost(state, state.current);
}

function add(sum: Measured, run: Measured): void {
  sum.amount += run.amount;
  sum.seconds += run.seconds;
}

function merged(before: Measured, run: Measured): Measured {
  const kept = 0.5 ** (run.seconds / HALF_LIFE);
  return { amount: before.amount * kept + run.amount, seconds: before.seconds * kept + run.seconds };
}

/** 1, 2, 4 ... up to `most`, with three quarters of it and one less: other programs often leave all cores but one. */
function numbersUpTo(most: number): number[] {
  const numbers = new Set([1, most]);
  for (let n = 2; n < most; n *= 2) numbers.add(n);
  if (most >= 4) numbers.add(Math.ceil(most * 0.75)).add(most - 1);
  return [...numbers].sort((a, b) => a - b);
}

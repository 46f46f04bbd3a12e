// For tests: a machine whose threads meet at every operation, beside other programs, in simulated time.
import type { ThreadChoice, Work } from "./choice.ts";

/** A graph as a machine sees it. */
export interface SimulatedGraph {
  readonly work: Work;
  /** Seconds of arithmetic on one core. */
  readonly seconds: number;
  /** Operations, at each of which the threads wait for the slowest. */
  readonly operations: number;
}

/** Seconds that a scheduler lets another program have a core. */
const TURN = 0.003;
/** Seconds that a meeting of threads takes, for each of them. */
const MEETING = 2e-6;

export class SimulatedMachine {
  readonly cores: number;
  /** Cores that other programs keep busy. */
  neighbours = 0;
  /** Seconds since the start. */
  now = 0;
  #state = 1;

  constructor(cores: number) {
    this.cores = cores;
  }

  /** Seconds of one run. Threads that share cores with other programs lose the core for half of the time, a turn each time. */
  run({ seconds, operations }: SimulatedGraph, threads: number): number {
    const arithmetic = seconds / threads;
    const crowded = Math.max(0, threads - (this.cores - this.neighbours));
    let took = arithmetic + (threads > 1 ? operations * threads * MEETING : 0);
    if (crowded > 0 && this.neighbours > 0) {
      // Each turn that a neighbour gets holds all threads up; waiting threads use up their own turns meanwhile.
      const turns = took / TURN;
      const whole = Math.floor(turns) + (this.#random() < turns % 1 ? 1 : 0);
      took += whole * TURN * (threads > 1 ? 1 + this.#random() : 1);
      // A thread that has slept between graphs finds its core taken.
      if (threads > 1 && this.#random() < 0.3) took += TURN * (1 + 2 * this.#random());
    }
    took *= 0.97 + 0.06 * this.#random();
    this.now += took;
    return took;
  }

  /** Runs a graph for so many simulated seconds as a choice says; returns runs per second. */
  follow(choice: ThreadChoice, graph: SimulatedGraph, seconds: number): number {
    const start = this.now;
    let runs = 0;
    while (this.now - start < seconds) {
      const threads = choice.next(graph.work);
      choice.record(graph.work, threads, this.run(graph, threads));
      runs++;
    }
    return runs / (this.now - start);
  }

  /** Runs per second with a number of threads. */
  fixed(threads: number, graph: SimulatedGraph, seconds = 5): number {
    const start = this.now;
    let runs = 0;
    for (; this.now - start < seconds; runs++) this.run(graph, threads);
    return runs / (this.now - start);
  }

  /** The runs per second of the best number of threads. */
  best(graph: SimulatedGraph): number {
    let best = 0;
    for (let threads = 1; threads <= this.cores; threads++) best = Math.max(best, this.fixed(threads, graph));
    return best;
  }

  /** Numerical Recipes' generator: 0 to 1. */
  #random(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return this.#state / 2 ** 32;
  }
}

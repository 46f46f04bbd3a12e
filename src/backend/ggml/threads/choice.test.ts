// The choice on a simulated machine: near the best fixed number of threads whatever the graph and the neighbours, and soon
// there again when they come and go. Time is the simulation's.
import { describe, expect, test } from "vitest";
import { ThreadChoice, type Work } from "./choice.ts";
import { type SimulatedGraph, SimulatedMachine } from "./simulated.ts";

const TINY = { work: { kind: "decode", amount: 3e6 }, seconds: 4e-4, operations: 150 };
const LARGE = { work: { kind: "decode", amount: 2e9 }, seconds: 0.2, operations: 700 };
const STEP = { work: { kind: "backward", amount: 5e9 }, seconds: 0.08, operations: 60 };
const PROMPT = { work: { kind: "prefill", amount: 5e11 }, seconds: 8, operations: 700 };
const GRAPHS: [string, SimulatedGraph][] = [
  ["a tiny graph", TINY],
  ["a large one", LARGE],
  ["a stage of training", STEP],
];

function mostUsed(choice: ThreadChoice): number | undefined {
  return choice.uses()[0]?.threads;
}

describe.each([2, 4, 16])("%d cores", (cores) => {
  describe.each([0, 1])("%d of them busy with something else", (neighbours) => {
    test.each(GRAPHS)("%s runs at 0.9 of the best fixed number", (_, graph) => {
      const machine = new SimulatedMachine(cores);
      machine.neighbours = neighbours;
      const best = machine.best(graph);
      const choice = new ThreadChoice(cores);
      machine.follow(choice, graph, 4); // the numbers are tried
      expect(machine.follow(choice, graph, 20) / best).toBeGreaterThan(0.9);
    });
  });
});

describe("two cores", () => {
  test.each(GRAPHS)("%s: from the first run on, trials cost little against one thread", (_, graph) => {
    const machine = new SimulatedMachine(2);
    machine.neighbours = 1;
    const one = machine.fixed(1, graph);
    const choice = new ThreadChoice(2);
    expect(machine.follow(choice, graph, 10) / one).toBeGreaterThan(0.9);
  });

  test.each(GRAPHS)("%s: a neighbour comes and goes", (_, graph) => {
    const machine = new SimulatedMachine(2);
    const choice = new ThreadChoice(2);
    for (const neighbours of [0, 1, 0, 1, 0]) {
      machine.neighbours = neighbours;
      const best = machine.best(graph);
      machine.follow(choice, graph, 10);
      expect(machine.follow(choice, graph, 10) / best, `${neighbours} neighbours`).toBeGreaterThan(0.9);
    }
  });

  test("a tiny graph never has two threads for long, a large one on a quiet machine has them", () => {
    for (const [graph, threads] of [
      [{ ...TINY, operations: 400 }, 1],
      [LARGE, 2],
    ] as const) {
      const machine = new SimulatedMachine(2);
      const choice = new ThreadChoice(2);
      machine.follow(choice, graph, 10);
      expect(mostUsed(choice)).toBe(threads);
      const seconds = choice.uses()[0]?.seconds ?? {};
      expect((seconds[threads] ?? 0) / 10).toBeGreaterThan(0.9);
    }
  });

  test("kinds are chosen for apart, on the same machine at the same time", () => {
    const machine = new SimulatedMachine(2);
    const choice = new ThreadChoice(2);
    const small = { ...TINY, work: { kind: "small", amount: 3e6 }, operations: 400 };
    for (let i = 0; i < 20; i++) {
      machine.follow(choice, small, 0.5);
      machine.follow(choice, LARGE, 0.5);
    }
    expect(choice.uses().map(({ kind, threads }) => [kind, threads])).toEqual([
      ["small", 1],
      ["decode", 2],
    ]);
  });

  test("one slow run of many does not change what is used", () => {
    const choice = new ThreadChoice(2);
    const machine = new SimulatedMachine(2);
    machine.follow(choice, LARGE, 10);
    choice.record(LARGE.work, 2, 0.14);
    expect(mostUsed(choice)).toBe(2);
  });
});

test("sixteen cores: a prompt of seconds is not spent on one thread to see how long that takes", () => {
  const machine = new SimulatedMachine(16);
  const choice = new ThreadChoice(16);
  machine.follow(choice, PROMPT, 60);
  const seconds = choice.uses()[0]?.seconds ?? {};
  expect(Object.keys(seconds).map(Number)).not.toContain(1);
  expect(mostUsed(choice)).toBe(16);
});

test("work like what is known begins as that goes on", () => {
  const machine = new SimulatedMachine(2);
  machine.neighbours = 1;
  const choice = new ThreadChoice(2);
  machine.follow(choice, LARGE, 10);
  expect(choice.next({ kind: "other", amount: 4e9 })).toBe(1);
  expect(choice.next({ kind: "other", amount: 1e12 })).toBe(2); // nothing of the size is known
});

test("a number that was bad with one kind of work is not tried at once with the next", () => {
  const machine = new SimulatedMachine(2);
  machine.neighbours = 1;
  const choice = new ThreadChoice(2);
  machine.follow(choice, TINY, 5);
  const prompt = { ...TINY, work: { kind: "prefill", amount: 2e8 }, seconds: 0.015 };
  for (let i = 0; i < 10; i++) {
    expect(choice.next(prompt.work)).toBe(1);
    choice.record(prompt.work, 1, machine.run(prompt, 1));
  }
});

test("a fixed number is what every run gets, whatever it takes", () => {
  const machine = new SimulatedMachine(2);
  machine.neighbours = 2;
  const choice = new ThreadChoice(2, { fixed: true });
  machine.follow(choice, TINY, 1);
  expect(choice.uses()).toEqual([{ kind: "decode", threads: 2, seconds: { 2: expect.closeTo(1, 1) } }]);
});

test("threads that the system refuses are chosen no more", () => {
  const machine = new SimulatedMachine(4);
  const choice = new ThreadChoice(4);
  machine.follow(choice, LARGE, 5);
  expect(choice.next(LARGE.work)).toBe(4);
  choice.refuse(2);
  expect(choice.most).toBe(1);
  machine.follow(choice, LARGE, 5);
  expect(choice.next(LARGE.work)).toBe(1);
});

test("times that say nothing are left out", () => {
  const choice = new ThreadChoice(2);
  const work: Work = { kind: "none", amount: 0 };
  for (const seconds of [0, Number.NaN, 1]) choice.record(work, choice.next(work), seconds);
  expect(choice.next(work)).toBe(1);
});

import { expect, test } from "vitest";
import { discover } from "../discover.ts";
import { library } from "../library.ts";
import { BY_SCORE, bestCpuBackend, scoreOf } from "./cpu-backend.ts";

const builds = () => {
  library(); // what the builds need is loaded
  const { cpu } = discover().folders.find((folder) => folder.cpu.length > 0)!;
  return cpu.map((path) => ({ path, score: scoreOf(path) }));
};

test("the build with the highest score of all is chosen", () => {
  const all = builds();
  const highest = all.reduce((best, build) => (build.score > best.score ? build : best));
  expect(bestCpuBackend(all.map(({ path }) => path))).toBe(highest.path);
  expect(library().cpuBackend).toBe(highest.path);
});

test("builds that run here stand in the order of their scores", () => {
  const scores = new Map(builds().map(({ path, score }) => [/cpu-([a-z0-9]+)\./.exec(path)?.[1], score]));
  const ordered = BY_SCORE.map((name) => scores.get(name) ?? 0).filter((score) => score > 0);
  expect(ordered).toEqual(ordered.toSorted((a, b) => b - a));
});

test("files that are no builds are passed over", () => {
  expect(bestCpuBackend(["/nowhere/libggml-cpu-zen4.so", "/nowhere/libggml-cpu-new.so"])).toBeUndefined();
});

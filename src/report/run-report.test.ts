import { describe, expect, test } from "vitest";
import type { ModelStatistics } from "../generate/causal-lm.ts";
import { type ReportedModel, RunRecorder, withBandwidth } from "./run-report.ts";

const NO_BYTES = { gpu: 0, cpu: 0, disk: 0 };
const UNLIMITED = Number.POSITIVE_INFINITY;

/** A model whose counters the test sets. */
function model(streamed: { cpu: number; disk: number }) {
  const counters = {
    streamedBytes: 0,
    readBytes: 0,
    readSeconds: 0,
    prefillTokens: 0,
    reusedTokens: 0,
    prefillSeconds: 0,
    decodeTokens: 0,
    decodeSeconds: 0,
    threads: [],
  } satisfies ModelStatistics;
  const reported = {
    config: { model_type: "llama" },
    device: "cpu",
    num_parameters: 7,
    context_length: 64,
    plan: { streamed, bytes: { ...NO_BYTES, cpu: 100, disk: 500 } } as ReportedModel["plan"],
    memory: () => ({
      budget: { gpu: UNLIMITED, cpu: 200, disk: UNLIMITED },
      used: { ...NO_BYTES, cpu: 90 },
      peak: { ...NO_BYTES, cpu: 120 },
      entries: [{ tier: "cpu" as const, what: "weights", bytes: 90 }],
    }),
    statistics: () => ({ ...counters }),
  };
  return { reported, counters };
}

describe("RunRecorder", () => {
  test("reports the ledger's tiers, and on disk what the plan left there", () => {
    const recorder = new RunRecorder();
    const { tiers, prefill } = recorder.finish(model({ cpu: 0, disk: 0 }).reported);
    expect(tiers).toEqual([
      { tier: "cpu", budget: 200, used: 90, peak: 120, entries: [{ what: "weights", bytes: 90 }] },
      { tier: "disk", budget: null, used: 500, peak: 500, entries: [{ what: "weights", bytes: 500 }] },
    ]);
    expect(prefill.tokens_per_second).toBeNull();
  });

  test("measures the process: the peak is never below what was there after loading", () => {
    const recorder = new RunRecorder();
    const held = Buffer.alloc(64 * 2 ** 20, 1);
    recorder.loaded();
    const { resident_memory: m } = recorder.finish(model({ cpu: 0, disk: 0 }).reported);
    expect(held.length).toBeGreaterThan(0);
    expect(m.after_loading).toBeGreaterThan(m.before_loading + 32 * 2 ** 20);
    expect(m.peak_loading).toBeGreaterThanOrEqual(m.after_loading);
    expect(m.peak).toBeGreaterThanOrEqual(m.peak_loading);
  });

  test("counts what streams between tokens, and leaves the passes over prompts out", () => {
    const recorder = new RunRecorder();
    const { reported, counters } = model({ cpu: 0, disk: 1000 });
    for (let turn = 0; turn < 2; turn++) {
      recorder.prompt();
      counters.streamedBytes += 1_000_000; // the prompt's pass
      counters.readBytes += 1_000_000;
      recorder.token(reported);
      for (let token = 0; token < 3; token++) {
        counters.streamedBytes += 1000;
        counters.readBytes += 1000;
        counters.decodeTokens++;
        counters.decodeSeconds += 2;
        recorder.token(reported);
      }
    }
    const { streaming } = recorder.finish(reported);
    expect(streaming).toMatchObject({ per_token: 1000, disk_rate: 500, share_of_bandwidth: null });
  });

  test("one token alone has no pass to count", () => {
    const recorder = new RunRecorder();
    const { reported } = model({ cpu: 10, disk: 0 });
    recorder.token(reported);
    expect(recorder.finish(reported).streaming).toMatchObject({ per_token: null, disk_rate: null });
  });
});

describe("withBandwidth", () => {
  const bandwidth = { bytesPerSecond: 2000, bytes: 1, seconds: 1, direct: true, path: "" };

  test("says what share of the disk was used", () => {
    const recorder = new RunRecorder();
    const { reported, counters } = model({ cpu: 0, disk: 1000 });
    recorder.token(reported);
    Object.assign(counters, { readBytes: 1000, decodeTokens: 1, decodeSeconds: 1 });
    recorder.token(reported);
    const report = withBandwidth(recorder.finish(reported), bandwidth);
    expect(report.streaming).toMatchObject({
      disk_rate: 1000,
      disk_bandwidth: 2000,
      share_of_bandwidth: 0.5,
    });
  });

  test("changes nothing where nothing streams", () => {
    const report = new RunRecorder().finish(model({ cpu: 0, disk: 0 }).reported);
    expect(withBandwidth(report, bandwidth)).toEqual(report);
  });
});

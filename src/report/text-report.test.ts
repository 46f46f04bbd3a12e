import { describe, expect, test } from "vitest";
import { type RunReport, withBandwidth } from "./run-report.ts";
import { comparisonLines, reportLines, summaryLine } from "./text-report.ts";

const MiB = 2 ** 20;
const GiB = 2 ** 30;

const RESIDENT: RunReport = {
  model_type: "llama",
  device: "cpu",
  parameters: 345e6,
  context_length: 4096,
  resident_memory: {
    before_loading: 60 * MiB,
    after_loading: 1.3 * GiB,
    peak_loading: 1.3 * GiB,
    peak: 1.4 * GiB,
  },
  tiers: [
    {
      tier: "cpu",
      budget: 8 * GiB,
      used: 1.25 * GiB,
      peak: 1.25 * GiB,
      entries: [{ what: "weights", bytes: GiB }],
    },
  ],
  loading_seconds: 0.7,
  prefill: { tokens: 9, seconds: 0.5, tokens_per_second: 18 },
  reused_tokens: 0,
  decode: { tokens: 0, seconds: 0, tokens_per_second: null },
  threads: [],
  streaming: null,
};

const STREAMED: RunReport = {
  ...RESIDENT,
  tiers: [
    {
      tier: "cpu",
      budget: 0.5 * GiB,
      used: 0.4 * GiB,
      peak: 0.45 * GiB,
      entries: [{ what: "streaming ring", bytes: 300 * MiB }],
    },
    { tier: "disk", budget: null, used: GiB, peak: GiB, entries: [{ what: "weights", bytes: GiB }] },
  ],
  decode: { tokens: 3, seconds: 4, tokens_per_second: 0.75 },
  threads: [],
  streaming: {
    planned_per_pass: { cpu: 0, disk: GiB },
    per_token: GiB,
    disk_rate: 800 * MiB,
    disk_bandwidth: null,
    share_of_bandwidth: null,
  },
};

describe("the report of one run", () => {
  test("is a table of memory by tier, then the process, then speed", () => {
    expect(
      reportLines(
        withBandwidth(STREAMED, { bytesPerSecond: 1000 * MiB, bytes: 1, seconds: 1, direct: true, path: "" }),
      ),
    ).toEqual([
      "memory                 budget       used       peak",
      "  cpu               512.0 MiB  409.6 MiB  460.8 MiB",
      "    streaming ring             300.0 MiB",
      "  disk              unlimited    1.0 GiB    1.0 GiB",
      "    weights                      1.0 GiB",
      "",
      "resident memory of the process, Node included",
      "  before loading              60.0 MiB",
      "  after loading               1.3 GiB",
      "  peak while loading          1.3 GiB",
      "  peak of the run             1.4 GiB",
      "computes on                   cpu",
      "parameters                    345.0 M",
      "KV cache for                  4096 tokens",
      "loading                       700 ms",
      "prefill                       9 tokens in 500 ms, 18.0 tokens/s",
      "decode                        3 tokens in 4.0 s, 0.75 tokens/s",
      "streamed per pass, from disk  1.0 GiB",
      "streamed per token, counted   1.0 GiB",
      "disk, while decoding          800.0 MiB/s",
      "disk, measured alone          1000.0 MiB/s",
      "share of the disk used        80 %",
    ]);
  });

  test("says with how many threads each kind of work was computed", () => {
    const threads: RunReport["threads"] = [
      { kind: "prefill", threads: 2, seconds: { 2: 1 } },
      { kind: "decode", threads: 1, seconds: { 1: 3, 2: 1 } },
    ];
    expect(reportLines({ ...RESIDENT, threads })).toContainEqual(
      expect.stringMatching(/^CPU threads +prefill 2, decode 1$/),
    );
  });

  test("says nothing of what was not measured", () => {
    const text = reportLines(RESIDENT).join("\n");
    expect(text).not.toMatch(/decode|streamed|disk|-$/m);
  });
});

describe("several runs", () => {
  test("stand side by side; what one of them has not is a dash, what none has is left out", () => {
    const lines = comparisonLines([
      { title: "all in RAM", report: RESIDENT },
      { title: "RAM and disk", report: STREAMED },
    ]);
    const cells = lines.map((line) => line.trim().split(/ {2,}/));
    expect(cells[0]).toEqual(["all in RAM", "RAM and disk"]);
    expect(cells).toContainEqual(["cpu budget", "8.0 GiB", "512.0 MiB"]);
    expect(cells).toContainEqual(["weights", "1.0 GiB", "-"]); // in RAM
    expect(cells).toContainEqual(["weights", "-", "1.0 GiB"]); // on disk
    expect(cells).toContainEqual(["decode", "-", "0.75 tokens/s"]);
    expect(lines.join("\n")).not.toContain("gpu");
    expect(lines.join("\n")).not.toContain("disk budget");
    expect(lines.join("\n")).not.toContain("measured alone");
  });
});

describe("one run in a line", () => {
  test("says speed and memory, and leaves out what was not measured", () => {
    expect(summaryLine(RESIDENT)).toBe("9 tokens read at 18.0 tokens/s, 1.3 GiB of cpu at peak");
    const streamed = { ...STREAMED, decode: { tokens: 20, seconds: 10, tokens_per_second: 2 } };
    expect(summaryLine(streamed)).toMatch(
      /^9 tokens read at 18\.0 tokens\/s, 20 made at 2\.0 tokens\/s, .* of cpu at peak, .* streamed per token$/,
    );
  });
});

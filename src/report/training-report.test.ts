import { describe, expect, test } from "vitest";
import type { TrainingRecord } from "./training-log.ts";
import { type TrainingReportHeader, trainingReportHtml, trainingReportText } from "./training-report.ts";

const GiB = 2 ** 30;

const HEADER: TrainingReportHeader = {
  title: "fine-tune",
  model: "qwen2",
  parameters: 7.6e9,
  command: "spillway train --model qwen2",
  plan: [{ what: "optimizer states", value: "disk, 56.3 GiB" }],
  memory: [
    { tier: "cpu", budget: 8 * GiB, planned: 4 * GiB, peak: 6 * GiB },
    { tier: "disk", budget: null, planned: 70 * GiB, peak: 70 * GiB },
  ],
};

function record(step: number, more: Partial<TrainingRecord> = {}): TrainingRecord {
  return {
    step,
    epoch: step / 4,
    loss: 8 / step,
    grad_norm: 1.5,
    learning_rate: 1e-3,
    tokens: 1000 * step,
    tokens_per_second: 500,
    seconds: 2,
    elapsed: 3 * step,
    stalled: { disk: 0.5, copy: 0, optimizer: 0.1 },
    read_bytes: GiB,
    written_bytes: GiB / 2,
    ...more,
  };
}

const RECORDS = [
  record(1),
  record(2, { eval_loss: 3 }),
  record(3, { eval_loss: 5 }),
  record(4, { eval_loss: 4 }),
];
const fact = (records: readonly TrainingRecord[], name: string) =>
  trainingReportText(records, { memory: [] }).find((line) => line.startsWith(name));

describe("in words", () => {
  test("a run is its totals, then its memory", () => {
    expect(trainingReportText(RECORDS, HEADER)).toEqual([
      "steps       4, up to step 4",
      "tokens      4.0 K, 1.00 epochs",
      "time        12.0 s, 2.0 s per step",
      "speed       500 tokens/s",
      "loss        8.000 at first, 2.000 at last, 2.844 smoothed",
      "eval loss   3.000 at best, after step 2",
      "waited for  disk 50 %, copies 0 %, optimizer 10 % of the time",
      "disk        4.0 GiB read, 2.0 GiB written",
      "",
      "memory     budget   planned      peak",
      "  cpu     8.0 GiB   4.0 GiB   6.0 GiB",
      "  disk  unlimited  70.0 GiB  70.0 GiB",
    ]);
  });

  test("shares and speed are those of the whole time, not of the steps", () => {
    const stalled = { disk: 0, copy: 0, optimizer: 0 };
    const records = [record(1), record(2, { seconds: 6, tokens_per_second: 100, stalled })];
    expect(fact(records, "waited")).toContain("disk 13 %"); // 0.5 * 2 of 8 seconds
    expect(fact(records, "speed")).toContain("200 tokens/s");
  });

  test("time goes on where a resumed run's clock started again", () => {
    expect(fact([record(1), record(2, { elapsed: 6 }), record(3, { elapsed: 2 })], "time")).toContain(
      "8.0 s",
    );
  });

  test("skipped steps are counted, and numbers that are none do not spoil the others", () => {
    const skipped = record(2, { skipped: true, loss: Number.NaN, grad_norm: Number.NaN });
    expect(fact([record(1), skipped], "steps")).toContain("1 of them skipped");
    expect(fact([record(1), skipped], "loss")).toContain("8.000 at first, NaN at last, 8.000 smoothed");
    expect(fact([record(1)], "eval")).toBeUndefined();
  });

  test("a run without steps says so", () => {
    expect(trainingReportText([], { memory: [] })).toEqual(["no steps were taken"]);
  });
});

describe("the page", () => {
  const page = trainingReportHtml(RECORDS, HEADER);

  test("needs nothing from outside and runs nothing", () => {
    expect(page).not.toMatch(/<script|<link|<img|<iframe|https?:|url\(|@import|\bon\w+=/i);
  });

  test("has a chart of each thing, drawn", () => {
    const captions = [...page.matchAll(/<figcaption>([^<]*)/g)].map((match) => match[1]);
    expect(captions).toEqual([
      "Loss",
      "Learning rate",
      "Gradient norm, before clipping",
      "Tokens per second",
      "Time spent waiting, share of each step",
      "Disk, bytes per step",
    ]);
    expect(page.match(/<svg /g)).toHaveLength(captions.length);
    expect(page).toContain("train, smoothed");
    expect(page).toContain("</i>eval</span>");
    expect(page).not.toMatch(/NaN|undefined|Infinity/);
  });

  test("has no line for an eval loss that was not measured", () => {
    expect(trainingReportHtml([record(1), record(2)], HEADER)).not.toContain("</i>eval</span>");
  });

  test("has one lead figure: the lowest loss on held-out rows, else the training loss", () => {
    const lead = (html: string) => /<p class="lead"><b>([^<]*)<\/b> ([^<,]*)/.exec(html)?.slice(1);
    const evaluated = [
      record(1, { eval_loss: 3 }),
      record(2, { eval_loss: 2.5 }),
      record(3, { eval_loss: 2.75 }),
    ];
    expect(lead(trainingReportHtml(evaluated, HEADER))).toEqual(["2.500", "loss on held-out rows"]);
    expect(lead(trainingReportHtml([record(1)], HEADER))?.[1]).toBe("training loss at the end");
    expect(page.match(/class="lead"/g)).toHaveLength(1);
  });

  test("says with what, from what, when and on what it ran", () => {
    const html = trainingReportHtml(RECORDS, {
      ...HEADER,
      data: ["a.jsonl", "<b>.jsonl"],
      date: new Date("2026-12-01T03:04:05Z"),
      versions: "spillway 1.2.3, Node 20.19.0",
      settings: [{ what: "learning_rate", value: "0.0001" }],
    });
    for (const text of [
      "a.jsonl, &#60;b&#62;.jsonl",
      "2026-12-01 03:04 UTC",
      "spillway 1.2.3",
      "learning_rate",
    ])
      expect(html).toContain(text);
  });

  test("shows memory as a share of its budget", () => {
    expect(page).toContain("budget 8.0 GiB");
    expect(page).toContain('class="faint" style="width:50.00%"');
    expect(page).toContain('class="first" style="width:75.00%"');
    expect(page).toContain("no budget");
  });

  test("has the numbers of some steps, the first and the last among them", () => {
    const long = trainingReportHtml(
      Array.from({ length: 1000 }, (_, i) => record(i + 1)),
      HEADER,
    );
    const steps = [...long.matchAll(/<tr><td>(\d+)/g)].map((match) => Number(match[1]));
    expect(steps).toHaveLength(24);
    expect([steps[0], steps.at(-1)]).toEqual([1, 1000]);
    expect(long).toContain("Numbers of 24 of 1000 steps");
    expect(page).toContain("Numbers of 4 of 4 steps");
  });

  test("shows whatever it is given as text", () => {
    const evil = `</title><script>alert("1")</script>&'`;
    const html = trainingReportHtml(RECORDS, {
      ...HEADER,
      title: evil,
      model: evil,
      command: evil,
      plan: [{ what: evil, value: evil }],
    });
    expect(html).not.toContain("<script");
    expect(html.match(/&#60;script&#62;alert\(&#34;1&#34;\)/g)).toHaveLength(6); // the title stands twice
    expect(html.match(/<\/title>/g)).toHaveLength(1);
  });

  test("is complete without steps, memory or command", () => {
    const html = trainingReportHtml([], { ...HEADER, command: undefined, plan: [], memory: [] });
    expect(html).toContain("No steps were taken.");
    expect(html).not.toMatch(/<svg|<pre>|<h2>Memory/);
    expect(html.trimEnd().endsWith("</html>")).toBe(true);
  });
});

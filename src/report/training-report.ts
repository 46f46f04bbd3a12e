// What a training run leaves to look at: a page of HTML that needs no network and no script, and lines for the
// terminal. Made from the run's log; measures nothing itself.
import { formatBytes, formatCount, formatDuration } from "../memory/sizes.ts";
import type { Tier } from "../memory/tiers.ts";
import { tableLines } from "./table.ts";
import { chartHtml, escapeHtml, smoothed } from "./training-charts.ts";
import type { TrainingRecord } from "./training-log.ts";
import {
  formatLearningRate,
  formatLoss,
  formatShare,
  formatSpeed,
  formatTokenRate,
} from "./training-progress.ts";

/** One tier of memory. Bytes. */
export interface TrainingMemoryRow {
  readonly tier: Tier;
  /** null: not limited. */
  readonly budget: number | null;
  /** Before the run, by the plan. */
  readonly planned: number;
  /** At the run's highest, by the ledger. */
  readonly peak: number;
}

/** What the records do not say. */
export interface TrainingReportHeader {
  readonly title: string;
  readonly model: string;
  /** Shared ones once. */
  readonly parameters: number;
  /** What to type to run it again. */
  readonly command?: string | undefined;
  /** When it ended. */
  readonly date?: Date | undefined;
  /** Files of rows. */
  readonly data?: readonly string[] | undefined;
  /** Of what it ran on: "spillway 0.1.0, Node 20.19.0". */
  readonly versions?: string | undefined;
  /** Hyperparameters that are not the defaults, a name and a value each. */
  readonly settings?: readonly { readonly what: string; readonly value: string }[] | undefined;
  /** Where things live and how the run is set up: a name and a value each. */
  readonly plan: readonly { readonly what: string; readonly value: string }[];
  readonly memory: readonly TrainingMemoryRow[];
}

/** Rows of the table under the charts. */
const TABLE_ROWS = 24;

interface Totals {
  readonly first: TrainingRecord;
  readonly last: TrainingRecord;
  /** Steps in the log, and of these skipped. */
  readonly steps: number;
  readonly skipped: number;
  /** In the optimizer's steps; `elapsed` has evaluation and saving too. */
  readonly seconds: number;
  readonly elapsed: number;
  readonly tokensPerSecond: number;
  /** Shares of all the steps' time. */
  readonly stalled: TrainingRecord["stalled"];
  readonly read: number;
  readonly written: number;
  readonly smoothedLoss: number;
  readonly bestEval: TrainingRecord | undefined;
}

function totalsOf(records: readonly TrainingRecord[]): Totals | undefined {
  const first = records[0];
  const last = records.at(-1);
  if (!first || !last) return undefined;
  const sum = (of: (r: TrainingRecord) => number) =>
    records.reduce((total, r) => total + (Number.isFinite(of(r)) ? of(r) : 0), 0);
  const seconds = sum((r) => r.seconds);
  const share = (of: (r: TrainingRecord) => number) =>
    seconds > 0 ? sum((r) => of(r) * r.seconds) / seconds : 0;
  // Where the clock starts again, a resumed run goes on.
  const elapsed = records.reduce((total, r, i) => {
    const before = records[i - 1]?.elapsed ?? 0;
    return total + (r.elapsed >= before ? r.elapsed - before : r.elapsed);
  }, 0);
  const evaluated = records.filter((r) => Number.isFinite(r.eval_loss));
  return {
    first,
    last,
    steps: records.length,
    skipped: records.filter((r) => r.skipped).length,
    seconds,
    elapsed,
    tokensPerSecond: share((r) => r.tokens_per_second),
    stalled: {
      disk: share((r) => r.stalled.disk),
      copy: share((r) => r.stalled.copy),
      optimizer: share((r) => r.stalled.optimizer),
    },
    read: sum((r) => r.read_bytes),
    written: sum((r) => r.written_bytes),
    smoothedLoss: smoothed(records.map((r) => r.loss)).at(-1)!,
    bestEval: evaluated.toSorted((a, b) => a.eval_loss! - b.eval_loss!)[0],
  };
}

/** The end of a run in words, a name and a value each. */
function facts(t: Totals): [string, string][] {
  const skipped = t.skipped > 0 ? `, ${t.skipped} of them skipped` : "";
  const rows: [string, string | undefined][] = [
    ["steps", `${t.steps}, up to step ${t.last.step}${skipped}`],
    ["tokens", `${formatCount(t.last.tokens)}, ${t.last.epoch.toFixed(2)} epochs`],
    ["time", `${formatDuration(t.elapsed)}, ${formatDuration(t.seconds / t.steps)} per step`],
    ["speed", formatTokenRate(t.tokensPerSecond)],
    [
      "loss",
      `${formatLoss(t.first.loss)} at first, ${formatLoss(t.last.loss)} at last, ${formatLoss(t.smoothedLoss)} smoothed`,
    ],
    [
      "eval loss",
      t.bestEval && `${formatLoss(t.bestEval.eval_loss!)} at best, after step ${t.bestEval.step}`,
    ],
    ["waited for", waits(t.stalled)],
    ["disk", `${formatBytes(t.read)} read, ${formatBytes(t.written)} written`],
  ];
  return rows.filter((row): row is [string, string] => row[1] !== undefined);
}

function waits({ disk, copy, optimizer }: TrainingRecord["stalled"]): string {
  return `disk ${formatShare(disk)}, copies ${formatShare(copy)}, optimizer ${formatShare(optimizer)} of the time`;
}

function memoryCells({ tier, budget, planned, peak }: TrainingMemoryRow): string[] {
  return [tier, formatBytes(budget ?? Number.POSITIVE_INFINITY), formatBytes(planned), formatBytes(peak)];
}

const MEMORY_HEAD = ["memory", "budget", "planned", "peak"];

/** The one figure a run is judged by: the lowest loss on held-out rows, or the training loss where nothing is held out. */
function lead(t: Totals): string {
  const [value, what] = t.bestEval
    ? [t.bestEval.eval_loss as number, `loss on held-out rows, the lowest, after step ${t.bestEval.step}`]
    : [t.smoothedLoss, `training loss at the end, over its last steps; nothing was held out`];
  return `<p class="lead"><b>${formatLoss(value)}</b> ${what}</p>`;
}

/** Lines for the terminal at the end of a run. */
export function trainingReportText(
  records: readonly TrainingRecord[],
  header: Pick<TrainingReportHeader, "memory">,
): string[] {
  const totals = totalsOf(records);
  const lines = totals ? tableLines(facts(totals), ["left", "left"]) : ["no steps were taken"];
  if (header.memory.length === 0) return lines;
  const rows = header.memory.map(memoryCells).map(([tier, ...rest]) => [`  ${tier}`, ...rest]);
  return [...lines, "", ...tableLines([MEMORY_HEAD, ...rows])];
}

/** The page: one HTML document in itself, UTF-8. Whatever is in `header` is shown as text. */
export function trainingReportHtml(records: readonly TrainingRecord[], header: TrainingReportHeader): string {
  const totals = totalsOf(records);
  const title = escapeHtml(header.title);
  const about: [string, string][] = [
    ["model", header.model],
    ...(header.data?.length ? [["data", header.data.join(", ")] as [string, string]] : []),
    ...(header.plan.some(({ what }) => what === "parameters")
      ? []
      : [["parameters", formatCount(header.parameters)] as [string, string]]),
    ...header.plan.map(({ what, value }): [string, string] => [what, value]),
    ...(header.date
      ? [["ended", `${header.date.toISOString().slice(0, 16).replace("T", " ")} UTC`] as [string, string]]
      : []),
    ...(header.versions ? [["versions", header.versions] as [string, string]] : []),
  ];
  const settings = (header.settings ?? []).map(({ what, value }): [string, string] => [what, value]);
  const command = header.command === undefined ? "" : `<pre>${escapeHtml(header.command)}</pre>`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<header><h1>${title}</h1>${totals ? lead(totals) : ""}${command}</header>
<main>
<section class="columns">
<div><h2>Result</h2>${totals ? definitions(facts(totals)) : "<p>No steps were taken.</p>"}</div>
<div><h2>Run</h2>${definitions(about)}</div>
${settings.length > 0 ? `<div><h2>Settings</h2>${definitions(settings)}</div>` : ""}
</section>
${totals ? `<section class="columns">\n${charts(records)}\n</section>` : ""}
${header.memory.length > 0 ? memorySection(header.memory) : ""}
${totals ? stepsSection(records) : ""}
</main>
</body>
</html>
`;
}

function charts(records: readonly TrainingRecord[]): string {
  const x = records.map((r) => r.step);
  const of = (value: (r: TrainingRecord) => number | undefined) => records.map((r) => value(r) ?? Number.NaN);
  const loss = of((r) => r.loss);
  const evaluations = of((r) => r.eval_loss);
  return [
    chartHtml(
      "Loss",
      x,
      formatTick,
      [
        { name: "train", values: loss, look: "faint" },
        { name: "train, smoothed", values: smoothed(loss), look: "first" },
        ...(evaluations.some(Number.isFinite)
          ? [{ name: "eval", values: evaluations, look: "second", points: true } as const]
          : []),
      ],
      { log: true },
    ),
    chartHtml(
      "Learning rate",
      x,
      formatLearningRate,
      [{ name: "learning rate", values: of((r) => r.learning_rate), look: "first" }],
      { from: 0 },
    ),
    chartHtml(
      "Gradient norm, before clipping",
      x,
      formatTick,
      [{ name: "gradient norm", values: of((r) => r.grad_norm), look: "first" }],
      { from: 0 },
    ),
    chartHtml(
      "Tokens per second",
      x,
      formatSpeed,
      [{ name: "tokens per second", values: of((r) => r.tokens_per_second), look: "first" }],
      { from: 0 },
    ),
    chartHtml(
      "Time spent waiting, share of each step",
      x,
      formatShare,
      [
        { name: "disk", values: of((r) => r.stalled.disk), look: "first" },
        { name: "copies", values: of((r) => r.stalled.copy), look: "second" },
        { name: "optimizer", values: of((r) => r.stalled.optimizer), look: "third" },
      ],
      { from: 0, to: 1 },
    ),
    ...(records.some((r) => r.read_bytes + r.written_bytes > 0)
      ? [
          chartHtml(
            "Disk, bytes per step",
            x,
            formatBytes,
            [
              { name: "read", values: of((r) => r.read_bytes), look: "first" },
              { name: "written", values: of((r) => r.written_bytes), look: "second" },
            ],
            { from: 0, binary: true },
          ),
        ]
      : []),
  ].join("\n");
}

/** "0.5", "2": as formatLoss, without the zeros that make losses line up. */
function formatTick(value: number): string {
  return String(Number(value.toPrecision(4)));
}

function memorySection(memory: readonly TrainingMemoryRow[]): string {
  const bars = memory.map((row) => {
    const whole = Math.max(row.budget ?? 0, row.planned, row.peak, 1);
    const bar = (name: string, look: string, amount: number) =>
      `<div class="bar"><span>${name}</span><i><b class="${look}" style="width:${((100 * amount) / whole).toFixed(2)}%"></b></i><span>${formatBytes(amount)}</span></div>`;
    const limit = row.budget === null ? "no budget" : `budget ${formatBytes(row.budget)}`;
    return `<div><h3>${row.tier} <small>${limit}</small></h3>${bar("planned", "faint", row.planned)}${bar("peak", "first", row.peak)}</div>`;
  });
  return `<section><h2>Memory</h2><div class="columns">${bars.join("")}</div></section>`;
}

/** The charts' numbers as a table, evenly spread: what cannot be pointed at can be read. */
function stepsSection(records: readonly TrainingRecord[]): string {
  const stride = Math.max(1, (records.length - 1) / (TABLE_ROWS - 1));
  const shown = Array.from(
    { length: Math.min(TABLE_ROWS, records.length) },
    (_, i) => records[Math.round(i * stride)]!,
  );
  const head = [
    "step",
    "loss",
    "eval loss",
    "gradient norm",
    "learning rate",
    "tokens/s",
    "disk",
    "copies",
    "optimizer",
    "read",
    "written",
  ];
  const rows = shown.map((r) => [
    `${r.step}${r.skipped ? " (skipped)" : ""}`,
    formatLoss(r.loss),
    r.eval_loss === undefined ? "" : formatLoss(r.eval_loss),
    formatLoss(r.grad_norm),
    formatLearningRate(r.learning_rate),
    formatSpeed(r.tokens_per_second),
    ...[r.stalled.disk, r.stalled.copy, r.stalled.optimizer].map(formatShare),
    formatBytes(r.read_bytes),
    formatBytes(r.written_bytes),
  ]);
  const row = (tag: string, cells: readonly string[]) =>
    `<tr>${cells.map((c) => `<${tag}>${c}</${tag}>`).join("")}</tr>`;
  return `<section><details><summary>Numbers of ${shown.length} of ${records.length} steps</summary><div class="wide"><table><thead>${row("th", head)}</thead><tbody>${rows.map((cells) => row("td", cells)).join("")}</tbody></table></div></details></section>`;
}

function definitions(rows: readonly (readonly [string, string])[]): string {
  return `<dl>${rows.map(([what, value]) => `<dt>${escapeHtml(what)}</dt><dd>${escapeHtml(value)}</dd>`).join("")}</dl>`;
}

/** Colours by role; those of the lines are told apart by people who do not tell red from green. */
const STYLE = `
:root{--back:#fff;--text:#1c2024;--soft:#5c656e;--rule:#d8dde2;--first:#1f6fc4;--second:#c75000;--third:#00806a;--faint:#9dbfe6}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--text:#e6e9ec;--soft:#a0a9b2;--rule:#353b42;--first:#6bb0ff;--second:#ff9a4d;--third:#3fcfb2;--faint:#3d6799}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:24px 16px;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:24px;line-height:1.25;margin:0 0 8px}h2{font-size:17px;margin:24px 0 8px}h3{font-size:15px;margin:0 0 8px}
small{font-size:13px;font-weight:normal;color:var(--soft)}
.lead{margin:0 0 12px;color:var(--soft)}.lead b{font-size:34px;line-height:1.2;margin-right:6px;color:var(--text);font-variant-numeric:tabular-nums}
pre{margin:0;padding:8px 12px;border:1px solid var(--rule);border-radius:4px;font:13px/1.5 ui-monospace,monospace;white-space:pre-wrap}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:24px 32px}
.columns>*{min-width:0}
section{margin-bottom:24px}
dl{display:grid;grid-template-columns:minmax(88px,max-content) 1fr;gap:4px 16px;margin:0}
dt{color:var(--soft)}dd{margin:0}
figure{margin:0}figcaption{font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:0 16px;min-height:22px;font-size:13px;color:var(--soft)}
.legend i{display:inline-block;width:16px;height:3px;margin-right:6px;vertical-align:middle}
.plot{position:relative;height:200px;margin:10px 8px 26px 76px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot path{fill:none;stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round;vector-effect:non-scaling-stroke}
.plot path.points{stroke-width:7}.plot path.faint{stroke-width:1}.plot path.grid{stroke:var(--rule);stroke-width:1}
.plot span{position:absolute;font-size:12px;line-height:16px;color:var(--soft);white-space:nowrap;font-variant-numeric:tabular-nums}
.plot .y{right:100%;margin-right:8px;transform:translateY(-50%)}
.plot .x{top:100%;margin-top:6px;transform:translateX(-50%)}
path.first{stroke:var(--first)}path.second{stroke:var(--second)}path.third{stroke:var(--third)}path.faint{stroke:var(--faint)}
i.first,b.first{background:var(--first)}i.second{background:var(--second)}i.third{background:var(--third)}i.faint,b.faint{background:var(--faint)}
.bar{display:grid;grid-template-columns:64px 1fr 84px;gap:8px;align-items:center;font-size:13px}
.bar i{height:12px;background:var(--rule)}.bar b{display:block;height:100%}.bar span:last-child{text-align:right}
summary{cursor:pointer}.wide{overflow-x:auto}
table{border-collapse:collapse;margin-top:8px;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}th{color:var(--soft);font-weight:600}
`;

// A run's report as lines for people: one run as a table by tier, several side by side.
import { formatBytes, formatCount, formatDuration, formatRate } from "../memory/sizes.ts";
import { TIERS, type Tier } from "../memory/tiers.ts";
import type { RunReport, Speed, TierReport } from "./run-report.ts";
import { tableLines } from "./table.ts";

/** A number of a report with its name; several reports give one row of a comparison. */
interface Fact {
  readonly name: string;
  readonly of: (report: RunReport) => string;
}

const NONE = "-";

const ABOUT: readonly Fact[] = [
  { name: "computes on", of: (r) => r.device },
  { name: "parameters", of: (r) => formatCount(r.parameters) },
  { name: "KV cache for", of: (r) => `${r.context_length} tokens` },
];

const PROCESS: readonly Fact[] = [
  { name: "  before loading", of: (r) => formatBytes(r.resident_memory.before_loading) },
  { name: "  after loading", of: (r) => formatBytes(r.resident_memory.after_loading) },
  { name: "  peak while loading", of: (r) => formatBytes(r.resident_memory.peak_loading) },
  { name: "  peak of the run", of: (r) => formatBytes(r.resident_memory.peak) },
];

const LOADING: Fact = { name: "loading", of: (r) => formatDuration(r.loading_seconds) };

const SPEED: readonly Fact[] = [
  {
    name: "prefill",
    of: ({ prefill: s, reused_tokens: reused }) =>
      withRate(
        s,
        `${s.tokens} tokens ${reused > 0 ? `(${reused} more were there) ` : ""}in ${formatDuration(s.seconds)}, `,
      ),
  },
  {
    name: "decode",
    of: ({ decode: s }) => withRate(s, `${s.tokens} tokens in ${formatDuration(s.seconds)}, `),
  },
];

const THREADS: Fact = {
  name: "CPU threads",
  of: ({ threads }) => threadsLine(threads) || NONE,
};

/** The same for narrow columns. */
const RATES: readonly Fact[] = [
  { name: "prefill", of: (r) => withRate(r.prefill) },
  { name: "decode", of: (r) => withRate(r.decode) },
];

const STREAMING: readonly Fact[] = [
  {
    name: "streamed per pass, from RAM",
    of: (r) => optional(r.streaming?.planned_per_pass.cpu || null, formatBytes),
  },
  {
    name: "streamed per pass, from disk",
    of: (r) => optional(r.streaming?.planned_per_pass.disk || null, formatBytes),
  },
  { name: "streamed per token, counted", of: (r) => optional(r.streaming?.per_token, formatBytes) },
  { name: "disk, while decoding", of: (r) => optional(r.streaming?.disk_rate, formatRate) },
  { name: "disk, measured alone", of: (r) => optional(r.streaming?.disk_bandwidth, formatRate) },
  { name: "share of the disk used", of: (r) => optional(r.streaming?.share_of_bandwidth, percent) },
];

/** "prefill 2, decode 1" */
export function threadsLine(threads: RunReport["threads"]): string {
  return threads.map((use) => `${use.kind} ${use.threads}`).join(", ");
}

/** One run: a table of memory by tier, then its other numbers. */
export function reportLines(report: RunReport): string[] {
  const memory: string[][] = [["memory", "budget", "used", "peak"]];
  for (const tier of report.tiers) {
    memory.push([`  ${tier.tier}`, budget(tier), formatBytes(tier.used), formatBytes(tier.peak)]);
    for (const { what, bytes } of tier.entries) memory.push([`    ${what}`, "", formatBytes(bytes)]);
  }
  const rows = [...PROCESS, ...ABOUT, LOADING, ...SPEED, THREADS, ...STREAMING];
  const facts = rows.map(({ name, of }) => [name, of(report)]).filter(([, value]) => value !== NONE);
  return [
    ...tableLines(memory),
    "",
    "resident memory of the process, Node included",
    ...tableLines(facts, ["left", "left"]),
  ];
}

/** One run in a line: how fast it answered, and what that took on each tier. */
export function summaryLine(report: RunReport): string {
  const { prefill, decode, streaming } = report;
  const read = withRate(prefill, `${prefill.tokens} tokens read at `);
  const made = withRate(decode, `${decode.tokens} made at `);
  const memory = report.tiers
    .filter((tier) => tier.peak > 0)
    .map((tier) => `${formatBytes(tier.peak)} of ${tier.tier} at peak`);
  const streamed = optional(streaming?.per_token, (bytes) => `${formatBytes(bytes)} streamed per token`);
  return [read, made, ...memory, streamed].filter((part) => part !== NONE).join(", ");
}

/** Several runs, a column each. */
export function comparisonLines(runs: readonly { title: string; report: RunReport }[]): string[] {
  const reports = runs.map((run) => run.report);
  const rows: string[][] = [["", ...runs.map((run) => run.title)]];
  const add = (facts: readonly Fact[]) => {
    const cells = facts.map(({ name, of }) => [name, ...reports.map(of)]);
    rows.push(...cells.filter((row) => row.slice(1).some((cell) => cell !== NONE)));
  };
  add(ABOUT.slice(0, 1));
  for (const tier of TIERS) rows.push(...tierRows(tier, reports));
  rows.push(["resident memory of the process, Node included"]);
  add([...PROCESS, LOADING, ...RATES, ...STREAMING]);
  return tableLines(rows);
}

function tierRows(tier: Tier, reports: readonly RunReport[]): string[][] {
  const own = reports.map((report) => report.tiers.find((t) => t.tier === tier));
  if (own.every((t) => t === undefined)) return [];
  const names = [...new Set(own.flatMap((t) => t?.entries.map((e) => e.what) ?? []))];
  const limited = own.some((t) => t && t.budget !== null);
  return [
    ...(limited ? [[`${tier} budget`, ...own.map((t) => (t ? budget(t) : NONE))]] : []),
    [`${tier} peak`, ...own.map((t) => (t ? formatBytes(t.peak) : NONE))],
    ...names.map((what) => [
      `  ${what}`,
      ...own.map((t) => optional(t?.entries.find((e) => e.what === what)?.bytes, formatBytes)),
    ]),
  ];
}

function budget({ budget }: TierReport): string {
  return formatBytes(budget ?? Number.POSITIVE_INFINITY);
}

function withRate({ tokens_per_second: rate }: Speed, before = ""): string {
  if (rate === null) return NONE;
  const perSecond = rate >= 100 ? rate.toFixed(0) : rate >= 1 ? rate.toFixed(1) : rate.toPrecision(2);
  return `${before}${perSecond} tokens/s`;
}

function optional(value: number | null | undefined, format: (value: number) => string): string {
  return value === null || value === undefined ? NONE : format(value);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

// What inspect found, as lines for people.
import { formatBytes, formatCount, formatDuration, formatRate } from "../../memory/sizes.ts";
import { tableLines } from "../../report/table.ts";
import { shortPath } from "../installation.ts";
import type { CheckpointSummary, PlanSummary } from "./inspect-summary.ts";

export function checkpointLines(c: CheckpointSummary): string[] {
  const stored = byType(c.stored);
  const inMemory = byType(c.in_memory);
  const kinds = Object.entries(c.units.by_kind).map(([kind, n]) => `${n} ${kind}`);
  const ties = Object.entries(c.tied).map(([alias, name]) => `${alias} is ${name}`);
  const files = `${c.files.count} ${c.files.format} ${c.files.count === 1 ? "file" : "files"}`;
  const rows = [
    ["checkpoint", shortPath(c.path)],
    ["model type", c.model_type],
    ["parameters", `${formatCount(c.parameters)} in ${c.tensors} tensors, ${c.layers} layers`],
    ["files", `${files}, ${formatBytes(c.files.bytes)}`],
    ["weights stored", stored],
    ...(inMemory === stored ? [] : [["weights in memory", inMemory]]),
    ["units", `${c.units.count} (${kinds.join(", ")})`],
    ["largest unit", `${c.largest_unit.name}, ${formatBytes(c.largest_unit.bytes)}`],
    ["tied weights", ties.length > 0 ? ties.join(", ") : "none"],
    ["positions", `${c.max_positions} tokens`],
    ...c.warnings.map((line, i) => [i === 0 ? "warnings" : "", line]),
  ];
  return tableLines(rows, ["left", "left"]);
}

export function planLines(p: PlanSummary): string[] {
  const memory: string[][] = [["plan", "budget", "planned"]];
  for (const { tier, budget, planned, entries } of p.tiers) {
    memory.push([`  ${tier}`, formatBytes(budget ?? Number.POSITIVE_INFINITY), formatBytes(planned)]);
    for (const { what, bytes } of entries) memory.push([`    ${what}`, "", formatBytes(bytes)]);
  }
  const { cpu, disk } = p.streamed_per_pass;
  const homes = Object.entries(p.units).filter(([, count]) => count > 0);
  const facts = [
    ["computes on", p.device],
    ["units", homes.map(([tier, count]) => `${count} on ${tier}`).join(", ")],
    ["KV cache", `${p.context_length} tokens in ${p.kv_dtype}`],
    [
      "streamed per pass",
      cpu + disk === 0 ? "nothing" : `${formatBytes(cpu)} from RAM, ${formatBytes(disk)} from disk`,
    ],
    ...(p.prediction
      ? [
          [
            "prediction",
            `at ${formatRate(p.prediction.disk_bandwidth)}: at least ${formatDuration(p.prediction.seconds_per_token)} ` +
              "per token for reading from disk",
          ],
        ]
      : []),
  ];
  return [...tableLines(memory), "", ...tableLines(facts, ["left", "left"])];
}

function byType(bytes: Readonly<Record<string, number>>): string {
  const rows = Object.entries(bytes).sort(([, a], [, b]) => b - a);
  return rows.map(([dtype, n]) => `${dtype} ${formatBytes(n)}`).join(", ");
}

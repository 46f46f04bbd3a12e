// Medians, the table on stdout and the file in results/. A result says what made it: command, machine, versions.
import { execFileSync } from "node:child_process";
import { mkdir, rename, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const RESULTS = fileURLToPath(new URL("../results/", import.meta.url));

/** @param {number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  const [low, high] = [sorted[middle - 1] ?? 0, sorted[middle] ?? 0];
  return sorted.length % 2 ? high : (low + high) / 2;
}

/** @param {number[]} values @returns {{ median: number, min: number, max: number, n: number }} */
export function spread(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), n: values.length };
}

/**
 * `digits` significant ones, without an exponent; a dash for what was not measured.
 * @param {number | undefined} value
 */
export function round(value, digits = 3) {
  if (value === undefined || !Number.isFinite(value)) return "-";
  const whole = Math.floor(Math.log10(Math.abs(value) || 1)) + 1;
  return value.toFixed(Math.max(0, digits - whole));
}

/** Bytes as whole MiB. @param {number | undefined} bytes */
export const mib = (bytes) =>
  bytes === undefined || !Number.isFinite(bytes) ? "-" : String(Math.round(bytes / 2 ** 20));

/** "1.23 (1.20-1.31)" @param {{ median: number, min: number, max: number, n: number } | undefined} values */
export function withRange(values) {
  if (!values?.n) return "-";
  return values.n === 1
    ? round(values.median)
    : `${round(values.median)} (${round(values.min)}-${round(values.max)})`;
}

/**
 * How many greedy tokens agree from the start: in f32 all of them; in 16 bits the engines may round differently.
 * @param {number[] | undefined} a
 * @param {number[] | undefined} b
 */
export function agreement(a, b) {
  if (!a || !b) return undefined;
  const differs = a.findIndex((token, index) => token !== b[index]);
  return `${differs < 0 ? a.length : differs} of ${a.length}`;
}

/** @param {Record<string, string | number | undefined>[]} rows as aligned columns */
export function table(rows) {
  const columns = Object.keys(rows[0] ?? {});
  const cells = [columns, ...rows.map((row) => columns.map((column) => String(row[column] ?? "-")))];
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)));
  return cells
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** @returns {string} the commit, with "+" when the tree differs from it */
function commit() {
  try {
    /** @param {string[]} args */
    const git = (...args) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8", stdio: "pipe" }).trim();
    const changed = git(
      "status",
      "--porcelain",
      "--untracked-files=no",
      "--",
      "src",
      "bench/runners",
      "bench/lib",
    );
    return git("rev-parse", "--short", "HEAD") + (changed ? "+" : "");
  } catch {
    return "unknown";
  }
}

/** What the numbers depend on. */
function environment() {
  return {
    date: new Date().toISOString(),
    commit: commit(),
    cpu: os.cpus()[0]?.model.trim(),
    cores: os.availableParallelism(),
    memory_gib: Math.round(os.totalmem() / 2 ** 30),
    os: `${os.type()} ${os.release()}`,
    node: process.version,
  };
}

/**
 * Writes `results/<name>.json`, whole or not at all, and says where.
 * @param {string} name
 * @param {Record<string, unknown>} result
 */
export async function writeResult(name, result) {
  const file = path.join(RESULTS, `${name}.json`);
  // the command without the directories of this machine
  const command = [
    "node",
    `bench/${name}.mjs`,
    ...process.argv.slice(2).map((arg) => path.basename(arg)),
  ].join(" ");
  await mkdir(RESULTS, { recursive: true });
  await writeFile(
    `${file}.tmp`,
    `${JSON.stringify({ command, environment: environment(), ...result }, undefined, 1)}\n`,
  );
  await rename(`${file}.tmp`, file);
  console.error(`written: ${path.relative(process.cwd(), file)}`);
}

// Reads and writes amounts as people do: "6GiB", "21.4 GiB", "1.9 GiB/s", "345.0 M". Knows no budgets.

import { ConfigError } from "../base/errors.ts";
import { shown } from "../base/shown.ts";

/** The one table of units of size: KiB, MiB, ... are powers of 1024, KB, MB, ... powers of 1000. Bytes. */
const UNITS = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
} as const;

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB"] as const satisfies readonly (keyof typeof UNITS)[];

const unitByName = new Map(Object.entries(UNITS).map(([name, bytes]) => [name.toLowerCase(), bytes]));

const ACCEPTED =
  'a number of bytes, or a number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB ("6GiB", "500 MB")';

/**
 * Bytes meant by a size: `6442450944`, `"6GiB"`, `"1.5 gib"`, `"500MB"`, and `"50%"` where `whole` says of what.
 * Case does not matter; a fraction of a byte is dropped. Throws {@link ConfigError}, which names `option`, on
 * anything else.
 */
export function parseSize(value: unknown, option = "size", whole?: number): number {
  const bytes =
    typeof value === "number" ? value : typeof value === "string" ? parse(value, whole) : undefined;
  if (bytes === undefined || !(bytes >= 0)) throw refusal(value, option, whole);
  if (bytes > Number.MAX_SAFE_INTEGER) {
    throw new ConfigError(`${option}: ${String(value)} is more than can be counted (8192 TiB)`);
  }
  return Math.floor(bytes);
}

function parse(text: string, whole: number | undefined): number | undefined {
  const match = /^(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*|%)$/i.exec(text.trim());
  if (!match) return undefined;
  const [, digits = "", unit = ""] = match;
  const amount = Number(digits);
  if (unit === "") return amount;
  if (unit === "%") return whole === undefined || amount > 100 ? undefined : (amount / 100) * whole;
  const scale = unitByName.get(unit.toLowerCase());
  return scale === undefined ? undefined : amount * scale;
}

function refusal(value: unknown, option: string, whole: number | undefined): ConfigError {
  const percent = whole === undefined ? "" : ', or a percentage up to 100 ("50%")';
  // "6G" is read as 6 GiB by some programs and as 6 GB by others: asked back, not guessed.
  const short = typeof value === "string" && /^\s*([\d.]+)\s*([kmgt])\s*$/i.exec(value);
  const hint = short
    ? `; did you mean "${short[1]}${short[2]?.toUpperCase()}iB" or "${short[1]}${short[2]?.toUpperCase()}B"?`
    : "";
  return new ConfigError(`${option}: ${shown(value)} is not a size; write ${ACCEPTED}${percent}${hint}`);
}

/** "21.4 GiB", "512 B"; binary units, one decimal. Infinity is "unlimited". */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes)) return bytes > 0 ? "unlimited" : String(bytes);
  return scaled(bytes, 1024, BINARY);
}

/** A size to type in as a budget, rounded up so that it is never less than `bytes`: "7.1GiB". */
export function formatBudget(bytes: number): string {
  const unit = BINARY.findLast((name) => bytes >= UNITS[name]) ?? "B";
  if (unit === "B") return `${Math.ceil(bytes)}B`;
  const tenths = Math.ceil((bytes / UNITS[unit]) * 10);
  const text = `${tenths / 10}${unit}`;
  // Decimal fractions are not exact: what the text is read as can be a byte short of what was meant.
  return parseSize(text) >= bytes ? text : `${(tenths + 1) / 10}${unit}`;
}

/** "1.9 GiB/s" from bytes per second. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** "345.0 M", "7.2 B", "512": counts of parameters and tokens, powers of 1000, one decimal. */
export function formatCount(count: number): string {
  return Number.isFinite(count) ? scaled(count, 1000, ["", "K", "M", "B", "T"]) : String(count);
}

/** "85 µs", "350 ms", "2.1 s", "3 min 05 s", "1 h 02 min", "2 d 03 h" from seconds. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return String(seconds);
  if (seconds < 0) return `-${formatDuration(-seconds)}`;
  if (seconds === 0) return "0 s";
  if (seconds < 0.9995e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return pair(whole, 60, "min", "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440) return pair(minutes, 60, "h", "min");
  return pair(Math.round(seconds / 3600), 24, "d", "h");
}

function pair(total: number, base: number, large: string, small: string): string {
  return `${Math.floor(total / base)} ${large} ${String(total % base).padStart(2, "0")} ${small}`;
}

/** One decimal from the second unit on; the next unit where rounding would show a whole one of it. */
function scaled(value: number, base: number, units: readonly string[]): string {
  if (value < 0) return `-${scaled(-value, base, units)}`;
  if (Math.round(value) < base) return `${Math.round(value)} ${units[0]}`.trimEnd();
  let unit = 1;
  let amount = value / base;
  while (Number(amount.toFixed(1)) >= base && unit + 1 < units.length) {
    amount /= base;
    unit++;
  }
  return `${amount.toFixed(1)} ${units[unit]}`;
}

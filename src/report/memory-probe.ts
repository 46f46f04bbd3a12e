// Resident memory of this process, now and at its peak, as the kernel counts it: proc(5), VmRSS and VmHWM.
// Measures; the ledger (memory/ledger.ts) is what was planned. Native memory is included, page cache is not.
import { readFileSync, writeFileSync } from "node:fs";

/** Resident bytes. */
export interface ResidentMemory {
  readonly now: number;
  /** Since the process started, or since the last {@link resetPeak} that worked. */
  readonly peak: number;
}

/** Resident bytes over the time of one probe. `peak` is at least `before` and `after`. */
export interface ProbedMemory {
  readonly before: number;
  readonly after: number;
  readonly peak: number;
}

/** Milliseconds between samples where the kernel's own peak cannot be used. */
const SAMPLE_MS = 10;

/** VmRSS and VmHWM of `/proc/self/status`, bytes; undefined for a row that is not there. */
export function parseStatus(status: string): { now: number | undefined; peak: number | undefined } {
  const row = (name: string) => {
    const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status);
    return match ? Number(match[1]) * 1024 : undefined;
  };
  return { now: row("VmRSS"), peak: row("VmHWM") };
}

/** Resident memory of this process. Off Linux the peak is that of the whole process (`getrusage`). */
export function residentMemory(): ResidentMemory {
  const status = parseStatus(readStatus());
  const now = status.now ?? process.memoryUsage.rss();
  const peak = status.peak ?? process.resourceUsage().maxRSS * 1024;
  // The kernel counts pages in batches per thread, so its peak can lag what it shows as resident now.
  return { now, peak: Math.max(now, peak) };
}

/**
 * Makes the kernel's peak start again from what is resident now. False where that is not possible: off Linux, or in
 * a sandbox that hides the file. Probes that are running keep the peak they had seen.
 */
export function resetPeak(): boolean {
  const { peak } = residentMemory();
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    return false;
  }
  for (const probe of running) probe.keep(peak);
  return true;
}

function readStatus(): string {
  try {
    return readFileSync("/proc/self/status", "utf8");
  } catch {
    return "";
  }
}

interface Running {
  keep(peak: number): void;
}

const running = new Set<Running>();

/** Where the numbers come from; tests give their own. */
export interface MemoryReader {
  resident(): ResidentMemory;
  resetPeak(): boolean;
}

/**
 * Measures the peak of resident memory between `start` and `stop`. Exact where the kernel's peak can be reset; elsewhere
 * it samples every 10 ms while the event loop is free, and a rise of the process's own peak is exact again.
 */
export class MemoryProbe {
  readonly #source: MemoryReader;
  readonly #running: Running = { keep: (peak) => this.#see(peak) };
  #before: number | undefined;
  #peak = 0;
  #peakAtStart = 0;
  #resets = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(source: MemoryReader = { resident: residentMemory, resetPeak }) {
    this.#source = source;
  }

  /** Starts measuring; a probe that runs starts again. */
  start(): this {
    this.#end();
    this.#resets = this.#source.resetPeak();
    const { now, peak } = this.#source.resident();
    this.#before = now;
    this.#peak = now;
    this.#peakAtStart = peak;
    running.add(this.#running);
    if (!this.#resets) {
      this.#timer = setInterval(() => this.#see(this.#source.resident().now), SAMPLE_MS);
      this.#timer.unref();
    }
    return this;
  }

  /** Ends the measurement. On a probe that was not started, everything is what is resident now. */
  stop(): ProbedMemory {
    const { now, peak } = this.#source.resident();
    const before = this.#before ?? now;
    this.#see(now);
    if (this.#before !== undefined && (this.#resets || peak > this.#peakAtStart)) this.#see(peak);
    const seen = this.#peak;
    this.#end();
    return { before, after: now, peak: seen };
  }

  #see(bytes: number): void {
    this.#peak = Math.max(this.#peak, bytes);
  }

  #end(): void {
    clearInterval(this.#timer);
    running.delete(this.#running);
    this.#timer = undefined;
    this.#before = undefined;
    this.#peak = 0;
  }
}

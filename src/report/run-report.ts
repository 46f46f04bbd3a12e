// What a run took: memory by the kernel's account and by the ledger's, speed, and what streamed. Numbers that were
// measured or entered, nothing estimated; text-report.ts puts them in words.
import type { CausalLM, ModelStatistics } from "../generate/causal-lm.ts";
import type { Bandwidth } from "../memory/io/disk-bandwidth.ts";
import { TIERS, type Tier } from "../memory/tiers.ts";
import { MemoryProbe, type ProbedMemory } from "./memory-probe.ts";

/** One tier of memory. Bytes. */
export interface TierReport {
  readonly tier: Tier;
  /** null: not limited. */
  readonly budget: number | null;
  readonly used: number;
  readonly peak: number;
  readonly entries: readonly { readonly what: string; readonly bytes: number }[];
}

export interface Speed {
  readonly tokens: number;
  readonly seconds: number;
  /** null where nothing was timed. */
  readonly tokens_per_second: number | null;
}

/** What moved to the computing device while tokens were made. Bytes and bytes per second. */
export interface StreamingReport {
  /** Bytes that move in every pass, by the plan: from RAM and from disk. */
  readonly planned_per_pass: { readonly cpu: number; readonly disk: number };
  /** Bytes that moved per decoded token; null if fewer than two tokens were made. */
  readonly per_token: number | null;
  /** Bytes read from disk per second of decoding. */
  readonly disk_rate: number | null;
  /** What the disk can do; null where it was not measured. */
  readonly disk_bandwidth: number | null;
  /** disk_rate / disk_bandwidth. */
  readonly share_of_bandwidth: number | null;
}

export interface RunReport {
  readonly model_type: string;
  readonly device: string;
  /** Shared ones once. */
  readonly parameters: number;
  /** Tokens the KV cache was planned for. */
  readonly context_length: number;
  /** Of the process, bytes. */
  readonly resident_memory: {
    readonly before_loading: number;
    readonly after_loading: number;
    readonly peak_loading: number;
    readonly peak: number;
  };
  readonly tiers: readonly TierReport[];
  readonly loading_seconds: number;
  readonly prefill: Speed;
  /** Tokens of prompts that were there already, from a text before that begins with them too. */
  readonly reused_tokens: number;
  readonly decode: Speed;
  /** Threads of the CPU that computed each kind of work, with the seconds for each number of them. */
  readonly threads: ModelStatistics["threads"];
  /** null where everything is resident. */
  readonly streaming: StreamingReport | null;
}

/** The parts of a model that are looked at. */
export type ReportedModel = Pick<
  CausalLM,
  "config" | "device" | "num_parameters" | "context_length" | "plan" | "memory" | "statistics"
>;

/** Follows one run from before loading to its last token. */
export class RunRecorder {
  readonly #whole = new MemoryProbe().start();
  readonly #loading = new MemoryProbe().start();
  readonly #since = performance.now();
  #peak = 0;
  #loaded: ProbedMemory | undefined;
  #loadingSeconds = 0;
  #previous: ModelStatistics | undefined;
  readonly #decoding = { tokens: 0, seconds: 0, streamed: 0, read: 0 };

  /** The model is open. */
  loaded(): void {
    this.#loaded = this.#loading.stop();
    this.#loadingSeconds = (performance.now() - this.#since) / 1000;
  }

  /** A prompt begins: its pass is not one of decoding. */
  prompt(): void {
    this.#previous = undefined;
  }

  /** A token has come. */
  token(model: ReportedModel): void {
    const now = model.statistics();
    const before = this.#previous ?? now;
    this.#decoding.tokens += now.decodeTokens - before.decodeTokens;
    this.#decoding.seconds += now.decodeSeconds - before.decodeSeconds;
    this.#decoding.streamed += now.streamedBytes - before.streamedBytes;
    this.#decoding.read += now.readBytes - before.readBytes;
    this.#previous = now;
  }

  /** Ends the measurement; to be called before the model is disposed. */
  finish(model: ReportedModel): RunReport {
    const report = this.report(model);
    this.#whole.stop();
    return report;
  }

  /** What the run took so far. */
  report(model: ReportedModel): RunReport {
    if (!this.#loaded) this.loaded();
    const loaded = this.#loaded as ProbedMemory;
    this.#peak = Math.max(this.#peak, loaded.peak, this.#whole.stop().peak);
    this.#whole.start();
    const statistics = model.statistics();
    const { model_type } = model.config;
    return {
      model_type: typeof model_type === "string" ? model_type : "",
      device: model.device,
      parameters: model.num_parameters,
      context_length: model.context_length,
      resident_memory: {
        before_loading: loaded.before,
        after_loading: loaded.after,
        peak_loading: loaded.peak,
        peak: this.#peak,
      },
      tiers: tiers(model),
      loading_seconds: this.#loadingSeconds,
      prefill: speed(statistics.prefillTokens, statistics.prefillSeconds),
      reused_tokens: statistics.reusedTokens,
      decode: speed(statistics.decodeTokens, statistics.decodeSeconds),
      threads: statistics.threads,
      streaming: this.#streaming(model),
    };
  }

  /** Ends the measurement of a run that failed. */
  abandon(): void {
    this.#loading.stop();
    this.#whole.stop();
  }

  #streaming(model: ReportedModel): StreamingReport | null {
    const { streamed } = model.plan;
    if (streamed.cpu + streamed.disk === 0) return null;
    const decoding = this.#decoding;
    const timed = decoding.tokens > 0 && decoding.seconds > 0;
    return {
      planned_per_pass: streamed,
      per_token: timed ? decoding.streamed / decoding.tokens : null,
      disk_rate: timed && streamed.disk > 0 ? decoding.read / decoding.seconds : null,
      disk_bandwidth: null,
      share_of_bandwidth: null,
    };
  }
}

/** The report with what the disk can do beside what it did. */
export function withBandwidth(report: RunReport, { bytesPerSecond }: Bandwidth): RunReport {
  const { streaming } = report;
  if (!streaming) return report;
  const share = streaming.disk_rate === null ? null : streaming.disk_rate / bytesPerSecond;
  return {
    ...report,
    streaming: { ...streaming, disk_bandwidth: bytesPerSecond, share_of_bandwidth: share },
  };
}

/** The ledger's account. Weights on disk are in nobody's ledger: they lie in the checkpoint's own files. */
function tiers(model: ReportedModel): TierReport[] {
  const { plan } = model;
  const { budget, used, peak, entries } = model.memory();
  return TIERS.filter((tier) => Number.isFinite(budget[tier]) || peak[tier] + plan.bytes[tier] > 0).map(
    (tier) => {
      const own = entries.filter((e) => e.tier === tier).map(({ what, bytes }) => ({ what, bytes }));
      const onDisk = tier === "disk" && plan.bytes.disk > 0 ? plan.bytes.disk : 0;
      return {
        tier,
        budget: Number.isFinite(budget[tier]) ? budget[tier] : null,
        used: used[tier] + onDisk,
        peak: peak[tier] + onDisk,
        entries: onDisk > 0 ? [{ what: "weights", bytes: onDisk }, ...own] : own,
      };
    },
  );
}

function speed(tokens: number, seconds: number): Speed {
  return { tokens, seconds, tokens_per_second: tokens > 0 && seconds > 0 ? tokens / seconds : null };
}

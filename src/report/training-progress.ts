// The line a training run shows while it goes on. A pure function of the last step: drawing it over the one before,
// and how often, is for whoever owns the terminal.
import { styleText } from "node:util";
import { formatCount, formatDuration } from "../memory/sizes.ts";
import type { TrainingRecord } from "./training-log.ts";

export interface TrainingProgressOptions {
  /** Step at which the run ends. */
  readonly max_steps: number;
  /** Width of the terminal. The last column stays free: a cursor beyond it makes some terminals wrap. */
  readonly columns: number;
  /** With ANSI colours, which take no columns. */
  readonly colour: boolean;
  /** The last loss on held-out rows of an earlier step. */
  readonly last_eval?: { readonly loss: number; readonly step: number } | undefined;
  /** What a step takes, for the time left. Default: what this one took; a mean over several is steadier. */
  readonly seconds_per_step?: number | undefined;
}

type Style = "bold" | "dim" | "red" | "yellow";

interface Part {
  /** Parts with higher numbers go first where there is no room. */
  readonly rank: number;
  readonly text: string;
  readonly style?: Style | undefined;
}

const GAP = "  ";

/** Stalls below this share of a step are not worth their columns. */
const WORTH_TELLING = 0.005;
/** From here on a step waits more than it works. */
const MOSTLY_WAITING = 0.5;

/**
 * "step 120/1000  loss 2.345  grad 0.98  lr 3e-4  1.2 K tokens/s  12 min 03 s left  waits: disk 12 %, copy 3 %".
 * Where `columns` are too few, the parts that matter least are left out, whole.
 */
export function trainingProgressLine(record: TrainingRecord, options: TrainingProgressOptions): string {
  const parts = partsOf(record, options);
  const room = options.columns - 1;
  while (parts.length > 1 && widthOf(parts) > room) {
    const least = Math.max(...parts.map((part) => part.rank));
    parts.splice(
      parts.findIndex((part) => part.rank === least),
      1,
    );
  }
  if (widthOf(parts) > room) return parts[0]!.text.slice(0, Math.max(0, room));
  return parts
    .map(({ text, style }) =>
      style && options.colour ? styleText(style, text, { validateStream: false }) : text,
    )
    .join(GAP);
}

function partsOf(record: TrainingRecord, options: TrainingProgressOptions): Part[] {
  const { step, loss, eval_loss, grad_norm, skipped } = record;
  const left = Math.max(0, options.max_steps - step) * (options.seconds_per_step ?? record.seconds);
  const waits = waitsOf(record.stalled);
  const parts: (Part | false)[] = [
    { rank: 0, text: `step ${step}/${options.max_steps}` },
    { rank: 1, text: `loss ${formatLoss(loss)}`, style: Number.isFinite(loss) ? "bold" : "red" },
    skipped === true && { rank: 2, text: "skipped", style: "yellow" },
    eval_loss !== undefined && { rank: 4, text: `eval ${formatLoss(eval_loss)}` },
    eval_loss === undefined &&
      options.last_eval !== undefined && {
        rank: 4,
        text: `eval ${formatLoss(options.last_eval.loss)} at ${options.last_eval.step}`,
        style: "dim",
      },
    {
      rank: 6,
      text: `grad ${formatLoss(grad_norm)}`,
      style: Number.isFinite(grad_norm) ? undefined : "red",
    },
    { rank: 7, text: `lr ${formatLearningRate(record.learning_rate)}` },
    { rank: 5, text: formatTokenRate(record.tokens_per_second) },
    step < options.max_steps && Number.isFinite(left) && { rank: 3, text: `${formatDuration(left)} left` },
    waits.text !== "" && {
      rank: 8,
      text: `waits: ${waits.text}`,
      style: waits.total >= MOSTLY_WAITING ? "yellow" : "dim",
    },
  ];
  return parts.filter((part) => part !== false);
}

function widthOf(parts: readonly Part[]): number {
  return parts.reduce((width, { text }) => width + text.length, (parts.length - 1) * GAP.length);
}

function waitsOf(stalled: TrainingRecord["stalled"]): { text: string; total: number } {
  const told = Object.entries(stalled).filter(([, share]) => share >= WORTH_TELLING);
  return {
    text: told.map(([what, share]) => `${what} ${formatShare(share)}`).join(", "),
    total: told.reduce((sum, [, share]) => sum + share, 0),
  };
}

/** "10.83", "2.346", "0.0123", "NaN": four significant digits. Losses and gradient norms. */
export function formatLoss(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(2) : value.toPrecision(4);
}

/** "3e-4", "2.75e-5", "0". */
export function formatLearningRate(rate: number): string {
  if (rate === 0 || !Number.isFinite(rate)) return String(rate);
  return rate.toExponential(2).replace(/\.?0*e/, "e");
}

/** "850 tokens/s", "1.2 K tokens/s", "0.75 tokens/s". */
export function formatTokenRate(rate: number): string {
  return `${formatSpeed(rate)} tokens/s`;
}

/** The same without the unit. */
export function formatSpeed(rate: number): string {
  return rate > 0 && rate < 9.95 ? rate.toPrecision(2) : formatCount(rate);
}

/** "12 %". */
export function formatShare(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

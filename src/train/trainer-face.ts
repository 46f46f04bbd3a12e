// What the training loop and the command line need of a trainer, apart from how it is done.
import type { CausalLM } from "../generate/causal-lm.ts";
import type { AutoTokenizer } from "../generate/text/tokenizer.ts";
import type { Tier } from "../memory/tiers.ts";
import type { TrainingBatch } from "./step/batch.ts";

/** What one optimizer step did. */
export interface StepResult {
  /** Updates made so far, this one included unless it was skipped. */
  readonly step: number;
  /** Mean over the targets of all micro-batches. */
  readonly loss: number;
  /** Of all gradients together, before clipping. */
  readonly grad_norm: number;
  readonly learning_rate: number;
  readonly tokens: number;
  readonly target_tokens: number;
  /** A gradient was not finite: nothing changed. */
  readonly skipped: boolean;
  readonly seconds: number;
  /** Shares of the step's time that were waited for each resource. */
  readonly stalled: { readonly disk: number; readonly copy: number; readonly optimizer: number };
  /** From and to disk since the step before. */
  readonly read_bytes: number;
  readonly written_bytes: number;
}

/** Where training lives and what a step costs. Bytes. */
export interface TrainingPlanSummary {
  readonly parameters: number;
  readonly trained: number;
  readonly device: string;
  readonly homes: {
    /** Units of weights on each tier. */
    readonly weights: Readonly<Record<Tier, number>>;
    readonly optimizer: Tier;
    readonly gradients: Tier;
    readonly activations: Tier;
  };
  /** Whether states are updated before the norm of the gradient is known: see TrainerOptions.update_ahead. */
  readonly update_ahead: boolean;
  /** What backward takes from forward instead of computing it again: see TrainerOptions.keep_activations. */
  readonly kept_activations: {
    /** Stages whose results are kept, of those that backward goes through. */
    readonly stages: number;
    readonly of: number;
    readonly bytes: number;
    /** Share of the products that backward would compute again, which it spares. */
    readonly spared: number;
  };
  readonly parts: readonly { readonly tier: Tier; readonly what: string; readonly bytes: number }[];
  readonly bytes: Readonly<Record<Tier, number>>;
  readonly budgets: Readonly<Partial<Record<Tier, number>>>;
  readonly disk_per_step: { readonly read: number; readonly written: number };
  readonly flops_per_step: number;
}

export interface SaveOptions {
  /** Kept with the checkpoint; JSON. */
  readonly meta?: Record<string, unknown>;
  readonly eval_loss?: number;
  /** Checkpoints to keep. */
  readonly keep?: number;
  /** The one with the lowest eval_loss is kept whatever its age. */
  readonly keep_best?: boolean;
  readonly signal?: AbortSignal;
}

export interface ResumeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Gets a line for each rate that is another than it was; the training goes on with the new ones. */
  readonly warning_callback?: ((warning: string) => void) | undefined;
}

export interface ExportOptions {
  /** Type of the weights. Default: as they are trained. */
  readonly dtype?: string | undefined;
  /** Text of a chat template that was trained with and is to be used with the result. */
  readonly chat_template?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A trainer as the loop uses it. */
export interface TrainerFace {
  readonly model: CausalLM;
  /** Rows of the model's embedding, with those an adapter brings. Tokens are checked against it where it is known. */
  readonly vocab_size?: number;
  /** What rows are encoded with. Default: the model's. */
  tokenizer?(): Promise<AutoTokenizer>;
  readonly steps: number;
  /** How large steps are: what may be another after a resume, and is then said. */
  readonly rates?: Readonly<Record<string, unknown>>;
  /** Folders that are read: nothing may be written into them. */
  readonly inputs?: readonly string[];
  /** Bytes of a checkpoint on disk, about; room is asked for before the first step where it is known. */
  readonly checkpoint_bytes?: number;
  plan(micro_batches_per_step: number): TrainingPlanSummary;
  step(batch: TrainingBatch | readonly TrainingBatch[], signal?: AbortSignal): Promise<StepResult>;
  evaluate(
    batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
    signal?: AbortSignal,
  ): Promise<{ loss: number; tokens: number }>;
  save(dir: string, options?: SaveOptions): Promise<string>;
  resume(path: string, options?: ResumeOptions): Promise<Record<string, unknown>>;
  export(dir: string, options?: ExportOptions): Promise<void>;
  dispose(): Promise<void>;
}

// The data of a run: rows held open, batches to train on from any place, batches to evaluate on, and how many there are.
import { ConfigError } from "../errors.ts";
import {
  type Batch,
  DataLoader,
  type MicroBatch,
  openRows,
  type RowSource,
  type RowTokenizer,
} from "./data/index.ts";
import type { FitSettings } from "./fit-options.ts";
import { type FitState, START } from "./fit-state.ts";

export interface FitDataOptions {
  readonly tokenizer: RowTokenizer;
  readonly max_length: number;
  readonly signal?: AbortSignal | undefined;
}

/** Close it when done. */
export class FitData implements AsyncDisposable {
  readonly #settings: FitSettings;
  readonly #options: FitDataOptions;
  readonly #rows: RowSource;
  readonly #heldOut: RowSource | undefined;

  private constructor(
    settings: FitSettings,
    options: FitDataOptions,
    rows: RowSource,
    heldOut: RowSource | undefined,
  ) {
    this.#settings = settings;
    this.#options = options;
    this.#rows = rows;
    this.#heldOut = heldOut;
  }

  /** Throws ConfigError that names file and line of rows that cannot be used, CheckpointError, IoError, AbortError. */
  static async open(settings: FitSettings, options: FitDataOptions): Promise<FitData> {
    const { signal } = options;
    const rows = await openRows(settings.data, { signal });
    try {
      const heldOut = settings.validation && (await openRows(settings.validation, { signal }));
      return new FitData(settings, options, rows, heldOut);
    } catch (error) {
      await rows.close();
      throw error;
    }
  }

  /** Whether there is anything to evaluate on. */
  get held_out(): boolean {
    return this.#heldOut !== undefined || this.#settings.validation_size > 0;
  }

  /** Batches from a cursor on, or from the start. Throws ConfigError for a cursor of other data. */
  batches(cursor?: unknown): DataLoader {
    return new DataLoader(this.#rows, { ...this.#shared(), epochs: this.#settings.epochs, cursor });
  }

  /** Passes over the data at a batch: a fraction inside a pass. */
  epochAt({ cursor }: Batch): number {
    return cursor.epoch + cursor.position / this.#rows.rows;
  }

  /** The held-out micro-batches, always the same ones. */
  async *validation(): AsyncGenerator<MicroBatch, void, undefined> {
    const { signal } = this.#options;
    const loader = new DataLoader(this.#heldOut ?? this.#rows, {
      ...this.#shared(),
      ...(this.#heldOut ? { validation_size: 0, shuffle: false } : { split: "validation" }),
      signal,
    });
    for await (const batch of loader) yield* batch.micro_batches;
  }

  /**
   * Steps of the whole run, found by making its batches: the last ones of an epoch may be short, and how many there are
   * depends on how documents fit together. Every row is thereby looked at before anything is trained. A run that is
   * resumed has the steps it made, and those that are left as batches are made now.
   */
  async countSteps({ step, cursor }: Pick<FitState, "step" | "cursor"> = START): Promise<number> {
    const { epochs, max_steps } = this.#settings;
    if (epochs === Number.POSITIVE_INFINITY) return max_steps;
    const { signal } = this.#options;
    const loader = new DataLoader(this.#rows, { ...this.#shared(), epochs, cursor, signal });
    let steps = step;
    if (steps >= max_steps) return steps;
    for await (const _ of loader) if (++steps >= max_steps) break;
    return steps;
  }

  async close(): Promise<void> {
    await this.#rows.close();
    await this.#heldOut?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #shared() {
    const { loader, validation_size } = this.#settings;
    const { tokenizer, max_length } = this.#options;
    return { ...loader, tokenizer, max_length, validation_size };
  }
}

/** Steps a run will have: see {@link FitData.countSteps}. Opens the data and closes it again. */
export async function countSteps(
  settings: FitSettings,
  options: FitDataOptions,
  from?: Pick<FitState, "step" | "cursor">,
): Promise<number> {
  await using data = await FitData.open(settings, options);
  const steps = await data.countSteps(from);
  if (!Number.isFinite(steps)) throw new ConfigError("the run has no end: give max_steps or epochs");
  return steps;
}

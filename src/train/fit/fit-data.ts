// The data of a run: rows held open, batches to train on from any place, batches to evaluate on, and how many there are.
import { runAll, undoAfter } from "../../base/async/cleanup.ts";
import { Slices } from "../../base/async/event-loop.ts";
import { ConfigError } from "../../base/errors.ts";
import { listed } from "../../base/notes.ts";
import { shown } from "../../base/shown.ts";
import {
  type Batch,
  checkRows,
  DataLoader,
  type MicroBatch,
  openDataRows,
  RowEncoder,
  type RowFacts,
  type RowSource,
  type RowTokenizer,
  validationSplit,
} from "../data/index.ts";
import type { FitSettings } from "./fit-options.ts";
import { type FitState, START } from "./fit-state.ts";

export interface FitDataOptions {
  readonly tokenizer: RowTokenizer;
  readonly max_length: number;
  /** Rows of the model's embedding: tokens beyond are refused. */
  readonly vocab_size?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Rows looked at so far, and all. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
  /** What an earlier look at the same rows found. */
  readonly checked?: CheckedData | undefined;
}

/** What is known of a run's rows once all of them have been looked at. */
export interface CheckedData {
  readonly rows: RowFacts;
  /** Of files of their own. */
  readonly held_out: RowFacts | undefined;
  /** Steps of the whole run. Infinity where neither epochs nor max_steps end it. */
  readonly steps: number;
  /** What is in the files and not used, a line each. */
  readonly notes: readonly string[];
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
    // Rows are looked at by check(), with the tokenizer, and once.
    const open = (paths: readonly string[]) => openDataRows(paths, { signal, validate: false });
    const rows = await open(settings.data);
    try {
      const heldOut = settings.validation && (await open(settings.validation));
      return new FitData(settings, options, rows, heldOut);
    } catch (error) {
      return await undoAfter(error, [() => rows.close()]);
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
   * Looks at every row, those held out too, and counts the steps of the run: of one that is resumed those made, and those
   * that are left as batches are made now. Throws ConfigError with file and line of rows that cannot be used, and where
   * one side has nothing to learn or to evaluate on.
   */
  async check(from: Pick<FitState, "step" | "cursor"> = START): Promise<CheckedData> {
    const { checked, signal, progress = () => {}, max_length } = this.#options;
    const [own, others] = [this.#rows, this.#heldOut];
    if (checked?.rows.rows === own.rows && checked.held_out?.rows === others?.rows) return checked;
    const { validation_size, loader } = this.#settings;
    this.batches(); // options that cannot be used are found before any row is read
    const encoder = new RowEncoder(this.#options.tokenizer, { ...loader, ...this.#options });
    const total = own.rows + (others?.rows ?? 0);
    const isValidation = validationSplit(own.rows, validation_size, loader.seed ?? 0);
    const rows = await checkRows(own, encoder, {
      ...{ max_length, isValidation, signal },
      progress: (done) => progress(done, total),
    });
    const held_out =
      others &&
      (await checkRows(others, encoder, {
        ...{ max_length, isValidation: () => true, signal },
        progress: (done) => progress(own.rows + done, total),
      }));
    const nothing = (what: string, rows: number) =>
      new ConfigError(
        `${what}, of ${rows} rows none has a token to learn: look at one of them and at the tokenizer`,
      );
    if (rows.train.targets === 0) throw nothing("data", rows.train.rows);
    if (validation_size > 0 && rows.held_out.rows === 0)
      throw new ConfigError(
        `validation_size ${validation_size} keeps none of ${own.rows} rows: give a larger share, or a number of rows`,
      );
    if (validation_size > 0 && rows.held_out.targets === 0)
      throw nothing(`validation_size ${validation_size}`, rows.held_out.rows);
    if (held_out?.held_out.targets === 0) throw nothing("validation", held_out.rows);
    const unused = [...own.unused, ...(others?.unused ?? [])];
    const notes = unused.map(([path, columns]) => {
      const names = listed(columns.map((name) => shown(name)));
      return `${path}: ${columns.length > 1 ? "the columns" : "the column"} ${names} ${columns.length > 1 ? "are" : "is"} not used`;
    });
    return { rows, held_out, notes, steps: await this.#countSteps(rows, from) };
  }

  /**
   * Steps of the whole run, found by making its batches of rows that stand for the real ones: the last ones of an epoch
   * may be short, and how many there are depends on how documents fit together.
   */
  async #countSteps(facts: RowFacts, from: Pick<FitState, "step" | "cursor">): Promise<number> {
    const { epochs, max_steps } = this.#settings;
    if (epochs === Number.POSITIVE_INFINITY) return max_steps;
    const loader = new DataLoader(this.#rows, {
      ...this.#shared(),
      ...{ epochs, cursor: from.cursor, signal: this.#options.signal, stands: (row) => facts.stand(row) },
    });
    const slices = new Slices();
    let steps = from.step;
    if (steps >= max_steps) return steps;
    for await (const _ of loader) {
      if (++steps >= max_steps) break;
      await slices.next();
    }
    return steps;
  }

  async close(): Promise<void> {
    await runAll([() => this.#rows.close(), () => this.#heldOut?.close()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #shared() {
    const { loader, validation_size } = this.#settings;
    const { tokenizer, max_length, vocab_size } = this.#options;
    return { ...loader, tokenizer, max_length, vocab_size, validation_size };
  }
}

/** Looks at the rows of a run: see {@link FitData.check}. Opens the data and closes it again. */
export async function checkData(
  settings: FitSettings,
  options: FitDataOptions,
  from?: Pick<FitState, "step" | "cursor">,
): Promise<CheckedData> {
  await using data = await FitData.open(settings, options);
  const checked = await data.check(from);
  if (!Number.isFinite(checked.steps)) throw new ConfigError("the run has no end: give max_steps or epochs");
  return checked;
}

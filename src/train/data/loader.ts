// Rows in, batches out: order, split, encoding and packing put together, with a cursor from which it all goes on exactly.
import { ConfigError, throwIfAborted } from "../../base/errors.ts";
import { type Batch, batchOf } from "./batch.ts";
import { type Cursor, type DataIdentity, parseCursor } from "./cursor.ts";
import { type EncodeRowOptions, RowEncoder, type RowTokenizer } from "./encode.ts";
import type { Example } from "./example.ts";
import { epochOrder, type Membership, validationSplit } from "./order.ts";
import { type PackOptions, type Sequence, SequencePacker } from "./pack.ts";
import { badRow, RowProblem } from "./row.ts";
import type { RowSource } from "./source.ts";

export interface DataLoaderOptions extends EncodeRowOptions {
  readonly tokenizer: RowTokenizer;
  /** Most tokens of a sequence. */
  readonly max_length: number;
  /** Sequences that go through the model together. Default 1. */
  readonly micro_batch_size?: number | undefined;
  /** Micro-batches of one step. Default 1. */
  readonly gradient_accumulation_steps?: number | undefined;
  /** Several documents to a sequence. Default true. */
  readonly packing?: boolean | undefined;
  /** Documents that may be passed over in search of one that fits. Default 32. */
  readonly look_ahead?: number | undefined;
  /** Default: true for the training split, false for validation. */
  readonly shuffle?: boolean | undefined;
  /** 0 to 2^53 - 1. Default 0. */
  readonly seed?: number | undefined;
  /** Times to go through the rows; may be Infinity. Default 1. */
  readonly epochs?: number | undefined;
  /** Rows kept for validation: a share below 1, or a count. Default 0. */
  readonly validation_size?: number | undefined;
  /** Which of the two sides to give. Default "train". */
  readonly split?: "train" | "validation" | undefined;
  /** Examples that stand for the rows', so that nothing need be read to know how they pack. */
  readonly stands?: ((row: number) => Example) | undefined;
  /** Where to go on: a {@link Cursor}, or what JSON.parse made of one. */
  readonly cursor?: unknown;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Batches of a dataset, by `for await`. The same rows, options and seed give the same batches everywhere. A batch never
 * spans two epochs: the last one of an epoch may have fewer sequences.
 *
 * Iterating again goes on after the last batch that was given, so use one iteration at a time. Does not close the rows.
 * Iterating throws ConfigError that names file and line of a row that cannot be used, IoError, AbortError.
 */
export class DataLoader implements AsyncIterable<Batch> {
  readonly #rows: RowSource;
  readonly #encoder: RowEncoder;
  readonly #pack: PackOptions;
  readonly #microBatch: number;
  readonly #sequences: number;
  readonly #epochs: number;
  readonly #isValidation: Membership;
  readonly #data: DataIdentity;
  readonly #signal: AbortSignal | undefined;
  readonly #stands: DataLoaderOptions["stands"];
  #cursor: Cursor;

  /** Throws ConfigError for an option that cannot be used, or a cursor that belongs to other data. */
  constructor(rows: RowSource, options: DataLoaderOptions) {
    const { max_length, micro_batch_size = 1, gradient_accumulation_steps = 1, look_ahead = 32 } = options;
    const { packing = true, seed = 0, epochs = 1, validation_size = 0, split = "train" } = options;
    whole("max_length", max_length, 2);
    whole("micro_batch_size", micro_batch_size, 1);
    whole("gradient_accumulation_steps", gradient_accumulation_steps, 1);
    whole("look_ahead", look_ahead, 0);
    whole("seed", seed, 0);
    if (epochs !== Number.POSITIVE_INFINITY) whole("epochs", epochs, 1);
    if (split !== "train" && split !== "validation")
      throw new ConfigError(`split is ${JSON.stringify(split)}, expected "train" or "validation"`);
    if (split === "validation" && validation_size === 0)
      throw new ConfigError(
        "there is no validation split: give validation_size, a share below 1 or a number of rows",
      );
    const { shuffle = split === "train" } = options;
    this.#rows = rows;
    this.#encoder = new RowEncoder(options.tokenizer, options);
    this.#pack = { max_length, look_ahead, packing };
    this.#microBatch = micro_batch_size;
    this.#sequences = micro_batch_size * gradient_accumulation_steps;
    this.#epochs = epochs;
    this.#isValidation = validationSplit(rows.rows, validation_size, seed);
    this.#signal = options.signal;
    this.#stands = options.stands;
    this.#data = { rows: rows.rows, seed, shuffle, split, validation_size, max_length };
    this.#cursor =
      options.cursor === undefined
        ? { version: 1, epoch: 0, position: 0, waiting: [], batches: 0, data: this.#data }
        : parseCursor(options.cursor, this.#data);
  }

  /** Where the next batch begins: after the last one that was given. */
  get cursor(): Cursor {
    return this.#cursor;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void, undefined> {
    for (let { epoch } = this.#cursor; epoch < this.#epochs; epoch++) {
      const from = this.#cursor.epoch === epoch ? this.#cursor : undefined;
      yield* this.#epoch(epoch, from);
    }
  }

  /** The batches of one epoch, from the cursor if it stands in this epoch. */
  async *#epoch(epoch: number, from: Cursor | undefined): AsyncGenerator<Batch, void, undefined> {
    const order = epochOrder({ ...this.#data, groups: this.#rows.groups }, epoch);
    const wanted = this.#data.split === "validation";
    let position = from?.position ?? 0;
    const next = async () => {
      while (position < this.#rows.rows) {
        const at = position++;
        const row = order(at);
        if (this.#isValidation(row) === wanted) return { position: at, example: await this.#example(row) };
      }
      return undefined;
    };
    const waiting = [];
    for (const [at, start] of from?.waiting ?? []) {
      const example = await this.#example(order(at));
      if (start >= example.input_ids.length) {
        throw new ConfigError(
          `the saved position in the data is token ${start} of ${await this.#rows.locate(order(at))}, which has ` +
            `${example.input_ids.length} tokens: the file or the tokenizer has changed`,
        );
      }
      waiting.push({ position: at, example, start });
    }
    const packer = new SequencePacker(this.#pack, next, waiting);
    let given = 0;
    for (;;) {
      throwIfAborted(this.#signal);
      const sequences: Sequence[] = [];
      while (sequences.length < this.#sequences) {
        const sequence = await packer.pack();
        if (sequence === undefined) break;
        sequences.push(sequence);
      }
      if (sequences.length === 0) break;
      const index = this.#cursor.batches;
      this.#cursor = {
        version: 1,
        epoch,
        position,
        waiting: packer.waiting.map((w) => [w.position, w.start] as const),
        batches: index + 1,
        data: this.#data,
      };
      given++;
      yield batchOf(sequences, this.#microBatch, { epoch, index, cursor: this.#cursor });
    }
    if (given === 0 && (from === undefined || from.position === 0)) {
      const side = wanted ? `validation_size ${this.#data.validation_size} keeps no row with` : "no row has";
      throw new ConfigError(
        `of ${this.#rows.rows} rows, ${side} a token to learn: look at one of them and at the tokenizer`,
      );
    }
  }

  async #example(row: number): Promise<Example> {
    throwIfAborted(this.#signal);
    if (this.#stands) return this.#stands(row);
    const example = await this.#encoder.encode(await this.#rows.read(row));
    if (example instanceof RowProblem) throw badRow(await this.#rows.locate(row), example.problem);
    return example;
  }
}

function whole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new ConfigError(`${name} is ${value}, expected a whole number of ${least} or more`);
}

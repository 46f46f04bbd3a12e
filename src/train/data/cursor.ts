// Where training is in its data, as JSON. Small: positions, not rows. The rows are read again on resuming.
import { ConfigError } from "../../base/errors.ts";

/**
 * What decides which row stands at which position: a cursor means nothing under another one. Whether the rows are those
 * that were there before is for the caller to know: resume/data-fingerprint.ts.
 */
export interface DataIdentity {
  readonly rows: number;
  readonly seed: number;
  readonly shuffle: boolean;
  readonly split: "train" | "validation";
  readonly validation_size: number;
  readonly max_length: number;
}

/** Everything after this point comes out the same as without the interruption. */
export interface Cursor {
  readonly version: 1;
  /** From 0. */
  readonly epoch: number;
  /** Positions of the epoch's order that have been taken, from 0 to the number of rows. */
  readonly position: number;
  /** Documents that were taken and are not packed yet, with the token to go on from; in the order of packing. */
  readonly waiting: readonly (readonly [position: number, start: number])[];
  /** Batches given so far, in all epochs. */
  readonly batches: number;
  readonly data: DataIdentity;
}

/**
 * The cursor in a parsed JSON file. Throws ConfigError if it is malformed, or if it belongs to other data or other
 * settings than `data`: the message names what differs.
 */
export function parseCursor(value: unknown, data: DataIdentity): Cursor {
  if (!isObject(value) || !isObject(value.data)) throw malformed("it is not an object with data in it");
  if (value.version !== 1)
    throw malformed(`version is ${JSON.stringify(value.version)}, this reads version 1`);
  const saved = value.data;
  const differences = (Object.keys(data) as (keyof DataIdentity)[])
    .filter((key) => saved[key] !== data[key])
    .map((key) => `${key} was ${JSON.stringify(saved[key])} and is ${JSON.stringify(data[key])}`);
  if (differences.length > 0) {
    throw new ConfigError(
      `training cannot go on where it stopped in the data: ${differences.join(", ")}; give what was given before, or start anew`,
    );
  }
  const { epoch, position, batches, waiting } = value;
  if (!isCount(epoch)) throw malformed(`epoch is ${JSON.stringify(epoch)}`);
  if (!isCount(batches)) throw malformed(`batches is ${JSON.stringify(batches)}`);
  if (!isCount(position) || position > data.rows)
    throw malformed(`position is ${JSON.stringify(position)} of ${data.rows} rows`);
  if (!Array.isArray(waiting)) throw malformed("waiting is not a list");
  const pairs = waiting.map((pair: unknown): readonly [number, number] => {
    if (Array.isArray(pair) && pair.length === 2) {
      const [at, start]: unknown[] = pair;
      if (isCount(at) && at < position && isCount(start)) return [at, start];
    }
    throw malformed(`waiting holds ${JSON.stringify(pair)}, expected [position below ${position}, token]`);
  });
  return { version: 1, epoch, position, waiting: pairs, batches, data };
}

function malformed(problem: string): ConfigError {
  return new ConfigError(`the saved position in the data cannot be used: ${problem}`);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

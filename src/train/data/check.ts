// Every row looked at before the first step: read, encoded, counted. What cannot be used is listed with file and line; what
// is known of the rest (tokens, and where there is something to learn) is kept in a few bytes a row, so that steps can be
// counted without encoding anything again.
import { Slices } from "../../base/async/event-loop.ts";
import { ConfigError, throwIfAborted } from "../../base/errors.ts";
import type { RowEncoder } from "./encode.ts";
import { countTargets, type Example, IGNORE_INDEX } from "./example.ts";
import type { Membership } from "./order.ts";
import { badRow, RowProblem } from "./row.ts";
import type { RowSource } from "./source.ts";

/** Bad rows listed in a message before the rest is only counted. */
const LISTED = 5;

export interface CheckOptions {
  readonly max_length: number;
  readonly isValidation: Membership;
  readonly signal?: AbortSignal | undefined;
  /** Called now and then with the rows that have been looked at, and all. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
}

/** Rows of one side of a split. */
export interface SideFacts {
  readonly rows: number;
  readonly tokens: number;
  /** Labels that are learned from, or evaluated on. */
  readonly targets: number;
}

/** What is known of rows that have been looked at. */
export class RowFacts {
  readonly train: SideFacts;
  readonly held_out: SideFacts;
  readonly #lengths: Uint32Array;
  readonly #pieces: readonly (readonly boolean[] | undefined)[];
  readonly #maxLength: number;

  constructor(
    sides: { readonly train: SideFacts; readonly held_out: SideFacts },
    lengths: Uint32Array,
    pieces: readonly (readonly boolean[] | undefined)[],
    max_length: number,
  ) {
    this.train = sides.train;
    this.held_out = sides.held_out;
    this.#lengths = lengths;
    this.#pieces = pieces;
    this.#maxLength = max_length;
  }

  get rows(): number {
    return this.#lengths.length;
  }

  /** An example that packs as the row's does, with other tokens: for counting batches. */
  stand(row: number): Example {
    const length = this.#lengths[row] as number;
    const labels = new Array<number>(length).fill(IGNORE_INDEX);
    for (const [i, learnable] of (this.#pieces[row] ?? []).entries())
      if (learnable) labels[i * (this.#maxLength - 1) + 1] = 0;
    return { input_ids: new Array<number>(length).fill(0), labels };
  }
}

/**
 * Looks at all rows, in the order of the files. Throws ConfigError with file and line of those that cannot be used,
 * AbortError, IoError.
 */
export async function checkRows(
  rows: RowSource,
  encoder: RowEncoder,
  { max_length, isValidation, signal, progress }: CheckOptions,
): Promise<RowFacts> {
  const slices = new Slices();
  const lengths = new Uint32Array(rows.rows);
  const pieces: (readonly boolean[] | undefined)[] = new Array(rows.rows);
  const sides = { train: { rows: 0, tokens: 0, targets: 0 }, held_out: { rows: 0, tokens: 0, targets: 0 } };
  const problems: { readonly place: string; readonly problem: string }[] = [];
  let bad = 0;
  for (let row = 0; row < rows.rows; row++) {
    throwIfAborted(signal);
    await slices.next();
    const read = await rows.look(row);
    const example = read instanceof RowProblem ? read : await encoder.encode(read);
    progress?.(row + 1, rows.rows);
    if (example instanceof RowProblem) {
      if (++bad <= LISTED) problems.push({ place: await rows.locate(row), problem: example.problem });
      continue;
    }
    const side = isValidation(row) ? sides.held_out : sides.train;
    side.rows++;
    side.tokens += example.input_ids.length;
    side.targets += countTargets(example.labels);
    lengths[row] = example.input_ids.length;
    pieces[row] = learnablePieces(example, max_length);
  }
  const [first] = problems;
  if (first && bad === 1) throw badRow(first.place, first.problem);
  if (first) {
    const more = bad > LISTED ? `\n  and ${bad - LISTED} more` : "";
    const lines = problems.map(({ place, problem }) => `\n  ${place}: ${problem}`);
    throw new ConfigError(`${bad} of ${rows.rows} rows cannot be used:${lines.join("")}${more}`);
  }
  return new RowFacts(sides, lengths, pieces, max_length);
}

/** One list for all rows in one piece with something to learn, which nearly all are. */
const ONE: readonly boolean[] = [true];

/** Which pieces of `max_length` tokens, as pack.ts cuts them, have something to learn. */
function learnablePieces({ labels }: Example, max_length: number): readonly boolean[] | undefined {
  const pieces: boolean[] = [];
  for (let start = 0; start + 1 < labels.length; start += max_length - 1)
    pieces.push(countTargets(labels, start + 1, Math.min(labels.length, start + max_length)) > 0);
  if (!pieces.includes(true)) return undefined;
  return pieces.length === 1 ? ONE : pieces;
}

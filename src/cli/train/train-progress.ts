// Training as it goes on, on stderr: one line that is redrawn on a terminal, elsewhere a line every so many steps.
import type { TrainingRecord } from "../../report/training-log.ts";
import { trainingProgressLine } from "../../report/training-progress.ts";
import { type Io, note, styled } from "../io.ts";

/** Milliseconds between two redraws. */
const REDRAW_MS = 100;
/** Steps that the time left is judged by. */
const WINDOW = 20;
/** Lines of a whole run where stderr is no terminal, unless told otherwise. */
const LINES = 50;

/** Call {@link end} however training ended. */
export class TrainingLine {
  readonly #io: Io;
  readonly #every: number | undefined;
  readonly #now: () => number;
  readonly #recent: number[] = [];
  #lastEval: { readonly loss: number; readonly step: number } | undefined;
  #first = true;
  #drawn = "";
  #drawnAt = Number.NEGATIVE_INFINITY;

  /** `every`: steps between lines where there is no terminal. `now` in milliseconds; tests give their own. */
  constructor(io: Io, every?: number | undefined, now: () => number = () => performance.now()) {
    this.#io = io;
    this.#every = every;
    this.#now = now;
  }

  readonly step = (record: TrainingRecord, total: number): void => {
    this.#recent.push(record.seconds);
    if (this.#recent.length > WINDOW) this.#recent.shift();
    const { stderr } = this.#io;
    const last = record.step === total;
    const { eval_loss } = record;
    if (eval_loss !== undefined) this.#lastEval = { loss: eval_loss, step: record.step };
    const options = {
      max_steps: total,
      last_eval: this.#lastEval,
      colour: styled(stderr, "bold", "x") !== "x",
      seconds_per_step: this.#recent.reduce((a, b) => a + b, 0) / this.#recent.length,
    };
    if (stderr.isTTY) {
      if (!last && this.#now() - this.#drawnAt < REDRAW_MS) return;
      this.#drawnAt = this.#now();
      this.#drawn = trainingProgressLine(record, { ...options, columns: stderr.columns || 80 });
      stderr.write(`\r${this.#drawn}\x1b[K`);
      return;
    }
    const every = this.#every ?? Math.max(1, Math.ceil(total / LINES));
    if (this.#first || last || record.step % every === 0 || record.eval_loss !== undefined) {
      note(this.#io, trainingProgressLine(record, { ...options, columns: Number.POSITIVE_INFINITY }));
    }
    this.#first = false;
  };

  /** A line of its own between the others. */
  note(text: string): void {
    const drawn = this.#drawn;
    if (drawn !== "") this.#io.stderr.write("\r\x1b[K");
    note(this.#io, text);
    if (drawn !== "") this.#io.stderr.write(`${drawn}\x1b[K`);
  }

  /** Leaves the last state of the line standing. Safe to call twice. */
  end(): void {
    if (this.#drawn !== "") this.#io.stderr.write("\n");
    this.#drawn = "";
  }
}

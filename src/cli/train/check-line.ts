// Rows being looked at before training, on stderr: nothing for a moment, then a line that is redrawn on a terminal;
// elsewhere one line that says how many there are.
import { type Io, note } from "../io.ts";

/** Milliseconds before anything is said. */
const PATIENCE_MS = 1000;
/** Milliseconds between two redraws. */
const REDRAW_MS = 100;

/** Call {@link end} however it ended. */
export class CheckLine {
  readonly #io: Io;
  readonly #now: () => number;
  #drawnAt: number;
  #drawn = false;

  /** `now` in milliseconds; tests give their own. */
  constructor(io: Io, now: () => number = () => performance.now()) {
    this.#io = io;
    this.#now = now;
    this.#drawnAt = now() + PATIENCE_MS - REDRAW_MS;
  }

  readonly update = (done: number, total: number): void => {
    if (this.#now() - this.#drawnAt < REDRAW_MS) return;
    const { stderr } = this.#io;
    this.#drawnAt = stderr.isTTY ? this.#now() : Number.POSITIVE_INFINITY;
    if (!stderr.isTTY) {
      note(this.#io, `looking at ${total.toLocaleString("en")} rows`);
      return;
    }
    this.#drawn = true;
    const percent = Math.floor((100 * done) / total);
    const line = `looking at rows: ${done.toLocaleString("en")} of ${total.toLocaleString("en")}  ${percent} %`;
    stderr.write(`\r${line.slice(0, (stderr.columns || 80) - 1)}\x1b[K`);
  };

  /** Takes the line away. Safe to call twice. */
  end(): void {
    if (this.#drawn) this.#io.stderr.write("\r\x1b[K");
    this.#drawn = false;
  }
}

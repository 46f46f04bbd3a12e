// Loading (or writing) as it happens: one line that is redrawn on a terminal; elsewhere one line at the start and one at the end.
import { formatBytes, formatDuration, formatRate } from "../memory/sizes.ts";
import type { LoadProgress } from "../runtime/weights/loader.ts";
import { type Io, note } from "./io.ts";

/** Milliseconds between two redraws. */
const REDRAW_MS = 100;
/** Seconds after which the rate says something about the time left. */
const SETTLED = 0.5;

/** Takes the loader's progress and writes it to stderr. Call {@link end} however loading ended. */
export class ProgressLine {
  readonly #stream: Io["stderr"];
  readonly #io: Io;
  readonly #now: () => number;
  readonly #words: { readonly doing: string; readonly done: string };
  #since: number;
  #total = -1;
  #loaded = 0;
  #drawnAt = Number.NEGATIVE_INFINITY;
  #drawn = false;

  /** `now` in milliseconds; tests give their own. */
  constructor(
    io: Io,
    now: () => number = () => performance.now(),
    words = { doing: "loading", done: "loaded" },
  ) {
    this.#io = io;
    this.#words = words;
    this.#stream = io.stderr;
    this.#now = now;
    this.#since = now();
  }

  readonly update = (progress: LoadProgress): void => {
    const { loaded, total, status } = progress;
    // Weights that are converted first are read in a pass of their own: its bytes are not those of the next.
    if (total !== this.#total || loaded < this.#loaded) {
      this.#since = this.#total < 0 ? this.#since : this.#now();
      this.#total = total;
      if (!this.#stream.isTTY) note(this.#io, `${this.#words.doing} ${formatBytes(total)}`);
    }
    this.#loaded = loaded;
    if (status === "done") {
      this.end();
      note(
        this.#io,
        `${this.#words.done} ${formatBytes(total)} in ${formatDuration(this.#seconds())}${this.#rate()}`,
      );
    } else if (this.#stream.isTTY && this.#now() - this.#drawnAt >= REDRAW_MS) this.#draw();
  };

  /** Takes the line away. Safe to call twice. */
  end(): void {
    if (this.#drawn) this.#stream.write("\r\x1b[K");
    this.#drawn = false;
  }

  #draw(): void {
    this.#drawnAt = this.#now();
    this.#drawn = true;
    const percent = this.#total > 0 ? Math.floor((100 * this.#loaded) / this.#total) : 100;
    const seconds = this.#seconds();
    const left = (seconds / this.#loaded) * (this.#total - this.#loaded);
    const line =
      `${this.#words.doing} ${formatBytes(this.#loaded)} of ${formatBytes(this.#total)}  ${percent} %${this.#rate()}` +
      (seconds >= SETTLED && this.#loaded > 0 ? `  ${formatDuration(left)} left` : "");
    this.#stream.write(`\r${line.slice(0, (this.#stream.columns || 80) - 1)}\x1b[K`);
  }

  #seconds(): number {
    return (this.#now() - this.#since) / 1000;
  }

  #rate(): string {
    const seconds = this.#seconds();
    return seconds > 0 && this.#loaded > 0 ? `  ${formatRate(this.#loaded / seconds)}` : "";
  }
}

// Reading a long prompt as it happens: one line on a terminal, after half a second without an answer; elsewhere nothing.
import { formatDuration } from "../../memory/sizes.ts";
import type { Io } from "../io.ts";

/** Milliseconds before there is anything to see: short prompts are read by then. */
const PATIENCE_MS = 500;
const REDRAW_MS = 100;

/** Takes the model's progress. Call {@link end} when the answer begins, and however reading ends; then it can begin again. */
export class PromptLine {
  readonly #stderr: Io["stderr"];
  readonly #now: () => number;
  #since: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #processed = 0;
  #total = 0;
  #drawn = false;

  /** `now` in milliseconds; tests give their own. */
  constructor({ stderr }: Pick<Io, "stderr">, now: () => number = () => performance.now()) {
    this.#stderr = stderr;
    this.#now = now;
  }

  /** A prompt is about to be read. */
  begin(): void {
    this.end();
    if (!this.#stderr.isTTY) return;
    this.#since = this.#now();
    this.#processed = 0;
    this.#total = 0;
    this.#timer = setInterval(() => this.draw(), REDRAW_MS);
    this.#timer.unref();
  }

  readonly update = ({ processed, total }: { readonly processed: number; readonly total: number }): void => {
    this.#processed = processed;
    this.#total = total;
  };

  /** Shows how far it is, if it is time to. Called by a timer; tests call it themselves. */
  draw(): void {
    if (this.#since === undefined) return;
    const elapsed = this.#now() - this.#since;
    if (elapsed < PATIENCE_MS) return;
    this.#drawn = true;
    const [processed, total] = [this.#processed, this.#total];
    const tokens = total === 0 ? "" : `: ${processed} of ${total} tokens`;
    const rate = processed > 0 ? `  ${((1000 * processed) / elapsed).toFixed(0)} tokens/s` : "";
    const left =
      processed > 0 ? `  ${formatDuration((elapsed * (total - processed)) / processed / 1000)} left` : "";
    const line = `reading the prompt${tokens}${rate}${left}`;
    this.#stderr.write(`\r${line.slice(0, (this.#stderr.columns || 80) - 1)}\x1b[K`);
  }

  /** Takes the line away. Safe to call twice. */
  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#since = undefined;
    if (this.#drawn) this.#stderr.write("\r\x1b[K");
    this.#drawn = false;
  }
}

// Lines a user types, or a pipe holds, one at a time. On a terminal with editing and history; prompts go to stderr.
import { createInterface, type Interface } from "node:readline";
import type { Io } from "./io.ts";

export class LineReader {
  /** Whether somebody sits there. */
  readonly interactive: boolean;
  readonly #interface: Interface;
  readonly #lines: string[] = [];
  #wake: (() => void) | undefined;
  #closed = false;

  /** `onInterrupt` is called for Ctrl-C on a terminal, which then sends no signal. */
  constructor(io: Io, prompt: string, onInterrupt: () => void) {
    this.interactive = io.stdin.isTTY === true && io.stderr.isTTY === true;
    this.#interface = createInterface({
      input: io.stdin,
      output: this.interactive ? io.stderr : undefined,
      terminal: this.interactive,
      prompt,
      historySize: 1000,
    });
    this.#interface.on("line", (line) => {
      this.#lines.push(line);
      this.#wake?.();
    });
    this.#interface.on("close", () => {
      this.#closed = true;
      this.#wake?.();
    });
    this.#interface.on("SIGINT", onInterrupt);
    io.signal.addEventListener("abort", () => this.close(), { once: true });
  }

  /** The next line, or undefined at the end of the input and after {@link close}. */
  async next(): Promise<string | undefined> {
    if (this.interactive && this.#lines.length === 0 && !this.#closed) this.#interface.prompt();
    while (this.#lines.length === 0 && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#lines.shift();
  }

  /** Shows the prompt again, after something was written over it. */
  refresh(): void {
    if (this.interactive && !this.#closed) this.#interface.prompt();
  }

  /** Ends reading; lines that are already there are dropped. Safe to call twice. */
  close(): void {
    this.#lines.length = 0;
    this.#interface.close();
  }
}

// What a user types, or a pipe holds, one turn at a time. On a terminal with editing and history; prompts go to stderr.
// A line of a pipe is a turn; at a terminal so is what was pasted at once, however many lines it has.
import { createInterface, type Interface } from "node:readline";
import type { Io } from "../io.ts";

/** Terminals that know it mark pasted text, so that its line ends do not end the turn (xterm's control sequences). */
const BRACKETED_PASTE = { on: "\x1b[?2004h", off: "\x1b[?2004l" } as const;

interface Key {
  readonly name?: string;
  readonly ctrl?: boolean;
}

export class LineReader {
  /** Whether somebody sits there. */
  readonly interactive: boolean;
  readonly #io: Io;
  readonly #interface: Interface;
  readonly #turns: string[] = [];
  /** Lines of the turn being typed: pasted ones, and ones that came in the same piece of input. */
  #lines: string[] = [];
  #pasting = false;
  #ending: NodeJS.Immediate | undefined;
  #wake: (() => void) | undefined;
  #closed = false;
  /** The key before this one was Ctrl-C too. */
  #interrupted = false;
  readonly #onKey = (_: unknown, key: Key | undefined) => this.#key(key);

  /**
   * `onInterrupt` is called for Ctrl-C on a terminal, which then sends no signal: `cleared` says that it took away what
   * was being typed, `again` that the key before it was Ctrl-C as well.
   */
  constructor(io: Io, prompt: string, onInterrupt: (how: { cleared: boolean; again: boolean }) => void) {
    this.#io = io;
    this.interactive = io.stdin.isTTY === true && io.stderr.isTTY === true;
    // Before readline's own listener, so that a paste's beginning is known when its first line comes.
    if (this.interactive) io.stdin.on("keypress", this.#onKey);
    this.#interface = createInterface({
      input: io.stdin,
      output: this.interactive ? io.stderr : undefined,
      terminal: this.interactive,
      prompt,
      historySize: 1000,
    });
    if (this.interactive) io.stderr.write(BRACKETED_PASTE.on);
    this.#interface.on("line", (line) => this.#line(line));
    this.#interface.on("close", () => {
      this.#endTurn();
      this.#closed = true;
      this.#wake?.();
    });
    this.#interface.on("SIGINT", () => {
      const again = this.#interrupted;
      this.#interrupted = true;
      onInterrupt({ cleared: this.#clear(), again });
    });
    io.signal.addEventListener("abort", () => this.close(), { once: true });
  }

  /** The next turn, or undefined at the end of the input and after {@link close}. */
  async next(): Promise<string | undefined> {
    if (this.interactive && this.#turns.length === 0 && !this.#closed) this.#interface.prompt();
    while (this.#turns.length === 0 && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#turns.shift();
  }

  /** Shows the prompt again, after something was written over it. */
  refresh(): void {
    if (this.interactive && !this.#closed) this.#interface.prompt();
  }

  /** Ends reading; turns that are already there are dropped. Safe to call twice. */
  close(): void {
    this.#turns.length = 0;
    this.#lines.length = 0;
    if (this.interactive && !this.#closed) {
      this.#io.stdin.off("keypress", this.#onKey);
      this.#io.stderr.write(BRACKETED_PASTE.off);
    }
    this.#interface.close();
  }

  #line(line: string): void {
    if (!this.interactive) {
      this.#turns.push(line);
      this.#wake?.();
      return;
    }
    // A command stands alone, also where a script types several lines at once.
    if (line.startsWith("/") && !this.#pasting) this.#endTurn();
    this.#lines.push(line);
    if (this.#pasting) return;
    // Terminals that do not mark pastes hand over their lines in one piece: all are here before the next turn of the loop.
    if (line.startsWith("/") && this.#lines.length === 1) this.#endTurn();
    else this.#ending ??= setImmediate(() => this.#endTurn());
  }

  #endTurn(): void {
    clearImmediate(this.#ending);
    this.#ending = undefined;
    if (this.#lines.length === 0 || this.#pasting) return;
    this.#turns.push(this.#lines.join("\n").replace(/\n+$/, ""));
    this.#lines = [];
    this.#wake?.();
  }

  #key(key: Key | undefined): void {
    if (key?.name === "paste-start") this.#pasting = true;
    else if (key?.name === "paste-end") this.#pasting = false;
    if (!(key?.ctrl && key.name === "c")) this.#interrupted = false;
  }

  /** Takes away what is being typed; whether there was anything. */
  #clear(): boolean {
    const typed = this.#interface.line !== "" || this.#lines.length > 0;
    this.#lines = [];
    this.#pasting = false;
    if (this.#interface.line !== "") {
      this.#interface.write(null, { ctrl: true, name: "e" });
      this.#interface.write(null, { ctrl: true, name: "u" });
    }
    return typed;
  }
}

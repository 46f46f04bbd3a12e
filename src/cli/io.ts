// What a command may touch of the outside: three streams and an interrupt. The process's own here; tests give theirs.
import type { Readable, Writable } from "node:stream";
import { styleText } from "node:util";
import { IoError } from "../base/errors.ts";
import { printable } from "../base/shown.ts";

export interface Io {
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: Writable & { readonly isTTY?: boolean };
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
  /** Fires when the user asks the program to end; its reason is an {@link Interruption}. */
  readonly signal: AbortSignal;
}

/** The user ended the program with a signal. */
export class Interruption {
  readonly exitCode: number;
  constructor(signal: keyof typeof SIGNALS) {
    this.exitCode = SIGNALS[signal];
  }
}

/** Signals that end the program, and its exit code: 128 + the signal's number, as shells have it. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;

/** Whoever read our output has left (`| head`): there is nobody to tell, and nothing to go on for. */
export class ReaderLeft extends Error {}

/** The streams and signals of this process. The first signal ends work in order, a second one at once. */
export function processIo(): Io & { close(): void } {
  const controller = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => {
    const interruption = new Interruption(signal as keyof typeof SIGNALS);
    if (controller.signal.aborted) process.exit(interruption.exitCode);
    controller.abort(interruption);
  };
  for (const signal of Object.keys(SIGNALS)) process.on(signal, onSignal);
  // Failed writes come back to whoever wrote; without a listener they would end the process.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  const { stdin, stdout, stderr } = process;
  return {
    stdin,
    stdout,
    stderr,
    signal: controller.signal,
    close: () => {
      for (const signal of Object.keys(SIGNALS)) process.off(signal, onSignal);
    },
  };
}

/** Writes data. Resolves when the stream took it. Throws {@link ReaderLeft}, or IoError when a disk is full. */
export function writeOut(io: Io, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    io.stdout.write(text, (error) => {
      if (!error) resolve();
      else if ("code" in error && (error.code === "EPIPE" || error.code === "ERR_STREAM_DESTROYED")) {
        reject(new ReaderLeft("nobody reads the output any more"));
      } else
        reject(new IoError(`the output could not be written: ${error.message}`, undefined, { cause: error }));
    });
  });
}

/** One JSON document. Infinity (no limit) and NaN become null; what a terminal would obey is escaped as JSON allows. */
export function writeJson(io: Io, value: unknown): Promise<void> {
  return writeOut(io, `${printable(JSON.stringify(value, null, 2), Number.POSITIVE_INFINITY)}\n`);
}

/** Lines for people on stdout: tables and reports, with names of files and models in them. */
export function writeLines(io: Io, lines: readonly string[]): Promise<void> {
  return writeOut(io, `${lines.map(safeLine).join("\n")}\n`);
}

/** A line for people: progress, reports, errors. Lost where nobody reads stderr. */
export function note(io: Io, line = ""): void {
  io.stderr.write(`${safeLine(line)}\n`);
}

/** The styles that {@link styled} writes stay; every other control character is shown instead of obeyed. */
export function safeLine(line: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a style is one
  const parts = line.split(/(\x1b\[[0-9;]*m)/);
  return parts.map((part, i) => (i % 2 === 1 ? part : printable(part, Number.POSITIVE_INFINITY))).join("");
}

/** A model's warnings (base/notes.ts), a line each on stderr. */
export function warn(io: Io, warnings: readonly string[]): void {
  for (const line of warnings) note(io, `${styled(io.stderr, "yellow", "warning:")} ${line}`);
}

/** Text in a style, where the stream is a terminal that shows it and neither NO_COLOR nor the like is set. */
export function styled(stream: Writable, style: Parameters<typeof styleText>[0], text: string): string {
  return styleText(style, text, { stream });
}

/**
 * Model output as a terminal may get it: without control characters other than line ends and tabs, because what a
 * model writes must not move the cursor or retitle the window.
 */
export function forTerminal(text: string, stream: { readonly isTTY?: boolean }): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return stream.isTTY ? text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd") : text;
}

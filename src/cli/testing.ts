// Runs the command line inside the test's process, with streams of its own. Not for the program.
import { PassThrough, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { Io } from "./io.ts";
import { main } from "./program.ts";

/** A Llama with 195 K random f32 parameters, a tokenizer and a chat template; 256 positions. */
export const TINY = fileURLToPath(new URL("../../test/fixtures/checkpoints/llama", import.meta.url));

/** Options that make a run the same everywhere: one thread and no GPU. */
export const PLAIN = ["--device", "cpu", "--threads", "1"] as const;

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CallOptions {
  /** What is piped in; without it stdin is a terminal at which nobody types. */
  readonly stdin?: string;
  readonly signal?: AbortSignal;
  /** Called with everything on stdout so far, after each write. */
  readonly onOutput?: (text: string) => void;
  /** What writing to stdout fails with. */
  readonly outputError?: NodeJS.ErrnoException;
}

/** What `spillway ...argv` prints and returns. */
export async function call(argv: readonly string[], options: CallOptions = {}): Promise<Outcome> {
  const stdout = new Captured(options.onOutput, options.outputError);
  const stderr = new Captured();
  const code = await main(argv, testIo(stdout, stderr, options));
  return { code, stdout: stdout.text, stderr: stderr.text };
}

export function testIo(stdout: Writable, stderr: Writable, { stdin, signal }: CallOptions = {}): Io {
  const input: PassThrough & { isTTY?: boolean } = new PassThrough();
  if (stdin === undefined) input.isTTY = true;
  else input.end(stdin);
  return { stdin: input, stdout, stderr, signal: signal ?? new AbortController().signal };
}

/** Remembers what is written to it. */
export class Captured extends Writable {
  text = "";
  readonly #onText: ((text: string) => void) | undefined;
  readonly #failure: Error | undefined;

  constructor(onText?: (text: string) => void, failure?: Error) {
    super();
    this.#onText = onText;
    this.#failure = failure;
    this.on("error", () => {}); // as for the process's own: whoever writes is told
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    if (this.#failure === undefined) {
      this.text += chunk.toString("utf8");
      this.#onText?.(this.text);
    }
    done(this.#failure);
  }
}

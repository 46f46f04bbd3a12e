// A tokenizer that lives in the sandbox. The sandbox learns of it with its first task, and reads its file then.
import type { Tasks, TokenizerDescription, TokenizerSource } from "./protocol.ts";
import { type RunOptions, type Sandbox, sandbox } from "./sandbox.ts";

type Encode = Omit<Tasks["encode"]["input"], "tokenizer">;

/** Tells the sandbox which tokenizers nothing refers to any more. */
const released = new FinalizationRegistry<{ sandbox: Sandbox; handle: number }>(({ sandbox, handle }) =>
  sandbox.release(handle),
);

export class RemoteTokenizer {
  readonly #source: TokenizerSource;
  readonly #bytes: number;
  readonly #sandbox = sandbox();
  #known: number | undefined;

  /** @param bytes size of the file */
  constructor(source: TokenizerSource, bytes: number) {
    this.#source = source;
    this.#bytes = bytes;
  }

  /** Every task throws {@link SandboxFailure}. */
  describe(): Promise<TokenizerDescription> {
    return this.#sandbox.run("describe", { tokenizer: this.#handle });
  }

  /** Throws AbortError too. */
  async encode(input: Encode, options: RunOptions): Promise<number[][]> {
    const rows = await this.#sandbox.run("encode", { ...input, tokenizer: this.#handle }, options);
    return rows.map((ids) => Array.from(ids));
  }

  encodeSync(input: Encode, options: RunOptions): number[][] {
    const rows = this.#sandbox.runSync("encode", { ...input, tokenizer: this.#handle }, options);
    return rows.map((ids) => Array.from(ids));
  }

  decodeSync(tokens: string[]): string {
    return this.#sandbox.runSync("decode", { tokenizer: this.#handle, tokens }, { work: tokens.length * 8 });
  }

  /** Lets go of it at once; the next task would make it known again. */
  release(): void {
    if (this.#known === undefined) return;
    this.#sandbox.release(this.#known);
    released.unregister(this);
    this.#known = undefined;
  }

  get #handle(): number {
    if (this.#known === undefined) {
      this.#known = this.#sandbox.add(this.#source, this.#bytes);
      released.register(this, { sandbox: this.#sandbox, handle: this.#known }, this);
    }
    return this.#known;
  }
}

// A disk under every hook that a training has: slow, short, interrupted, failing or full, as a test wants it.

import type { SystemRead } from "../../src/memory/io/direct-io.ts";
import type { SystemTransfer } from "../../src/memory/stores/state-file.ts";
import { systemError } from "../../src/memory/testing.ts";
import type { SystemWrite } from "../../src/train/checkpoints/index.ts";

/** A call of the system as all hooks know it. */
export interface Call {
  /** "stream": a read of weights to compute with, or of a checkpoint; "read" and "write" are of state, or of a checkpoint. */
  readonly kind: "stream" | "read" | "write" | SystemWrite["call"];
  /** The same for a call that is made again. */
  readonly place: string;
  /** Bytes; what is lowered here is moved less. */
  length: number;
}

/** A disk under every hook a training has. It does nothing of its own until `answer` is set. */
export class OddDisk {
  answer: (call: Call) => void | Promise<void> = () => {};
  failures = 0;

  readonly options = {
    model: {
      beforeRead: (read: SystemRead) => this.#pass("stream", `${read.file.path} ${read.fileOffset}`, read),
    },
    trainer: {
      beforeTransfer: (transfer: SystemTransfer) =>
        this.#pass(transfer.direction, `${transfer.position}`, transfer),
      beforeWrite: ({ call, path, bytes }: SystemWrite) => this.#pass(call, path, { length: bytes }),
    },
  };

  /** The call of this kind that comes after `after` others fails. */
  failOnce(kind: Call["kind"] | undefined, after: number, code: string): void {
    let left = after;
    this.answer = (call) => {
      if ((kind !== undefined && call.kind !== kind) || left-- !== 0) return;
      this.failures++;
      throw systemError(code);
    };
  }

  /** Counts the calls of a kind from now on. */
  count(kind: Call["kind"]): { calls: number } {
    const counted = { calls: 0 };
    this.answer = (call) => {
      if (call.kind === kind) counted.calls++;
    };
    return counted;
  }

  /** Everything is interrupted twice before it is done. */
  interrupt(): void {
    const tries = new Map<string, number>();
    this.answer = ({ kind, place }) => {
      if (!["stream", "read", "write"].includes(kind)) return; // the others never are
      const key = `${kind} ${place}`;
      const tried = tries.get(key) ?? 0;
      tries.set(key, tried + 1);
      const code = ["EINTR", "EAGAIN", undefined][tried % 3];
      if (code === undefined) return;
      this.failures++;
      throw systemError(code);
    };
  }

  heal(): void {
    this.answer = () => {};
  }

  async #pass(kind: Call["kind"], place: string, request: { length: number }): Promise<void> {
    const call: Call = { kind, place, length: request.length };
    await this.answer(call);
    if (call.length !== request.length) request.length = call.length;
  }
}

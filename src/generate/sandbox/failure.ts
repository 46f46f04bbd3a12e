import type { FailureKind } from "./protocol.ts";

/** A task that gave no result. */
export class SandboxFailure extends Error {
  readonly kind: FailureKind;
  constructor(kind: FailureKind, message: string) {
    super(message);
    this.kind = kind;
  }

  /** Whether it was a limit of the sandbox that ended the task. */
  get isLimit(): boolean {
    return this.kind === "time" || this.kind === "memory";
  }
}

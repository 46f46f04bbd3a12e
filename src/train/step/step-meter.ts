// What a step took: its time, the shares of it that were waited, and what went from and to disk. What it trained is not here.
import type { Session } from "../session.ts";
import type { StepResult } from "../trainer-face.ts";

type Taken = Pick<StepResult, "seconds" | "stalled" | "read_bytes" | "written_bytes">;

export class StepMeter {
  readonly #session: Session;
  /** Disk traffic that has been reported. */
  #traffic: { read: number; written: number };
  #from = 0;

  constructor(session: Session) {
    this.#session = session;
    this.#traffic = session.traffic();
  }

  begin(): void {
    this.#from = performance.now();
    this.#session.stalls.take();
  }

  /** Since {@link begin}; of the disk, since the step before. */
  end(): Taken {
    const seconds = (performance.now() - this.#from) / 1000;
    const waited = this.#session.stalls.take();
    const before = this.#traffic;
    const after = this.#session.traffic();
    this.#traffic = after;
    return {
      seconds,
      stalled: {
        disk: waited.disk / seconds,
        copy: waited.copy / seconds,
        optimizer: waited.optimizer / seconds,
      },
      read_bytes: after.read - before.read,
      written_bytes: after.written - before.written,
    };
  }
}

// The logs of a run together: JSON Lines and TensorBoard, each where it is wanted, both going on where a run goes on.
import { TensorBoardLog, trainingScalars } from "../../report/tensorboard.ts";
import { TrainingLog, type TrainingRecord } from "../../report/training-log.ts";
import type { FitSettings } from "./fit-options.ts";

export class FitLogs implements AsyncDisposable {
  readonly #jsonl: TrainingLog | undefined;
  readonly #tensorboard: TensorBoardLog | undefined;

  private constructor(jsonl: TrainingLog | undefined, tensorboard: TensorBoardLog | undefined) {
    this.#jsonl = jsonl;
    this.#tensorboard = tensorboard;
  }

  /**
   * `step`: where a resumed run goes on; later steps are dropped from the logs, because they will be taken again.
   * undefined for a new run. Throws ConfigError where the log of another run is there, IoError.
   */
  static async open(
    { log, tensorboard }: Pick<FitSettings, "log" | "tensorboard">,
    step: number | undefined,
  ): Promise<FitLogs> {
    const jsonl = log === undefined ? undefined : await TrainingLog.open(log, { resume_step: step });
    try {
      const purge_step = step === undefined ? undefined : step + 1;
      const board =
        tensorboard === undefined ? undefined : await TensorBoardLog.open(tensorboard, { purge_step });
      return new FitLogs(jsonl, board);
    } catch (error) {
      await jsonl?.close().catch(() => {});
      throw error;
    }
  }

  async append(record: TrainingRecord): Promise<void> {
    await this.#jsonl?.append(record);
    await this.#tensorboard?.scalars(record.step, Date.now() / 1000, trainingScalars(record));
  }

  /** Flushes to the device. Both files are closed even where one fails. */
  async close(): Promise<void> {
    const closed = await Promise.allSettled([this.#jsonl?.close(), this.#tensorboard?.close()]);
    for (const result of closed) if (result.status === "rejected") throw result.reason;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

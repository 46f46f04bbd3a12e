// Keeps a disk busy: splits reads into chunks and has a bounded number of them in flight, first come first served.
// Knows files and ranges; which weights are read when is the streamer's business.
import { AbortError, ConfigError } from "../../base/errors.ts";
import { ALIGNMENT, type BeforeRead, type DirectFile } from "./direct-io.ts";
import { defaultDepth, type IoTurns, processTurns, type Urgency } from "./io-turns.ts";

/** A range of a file and where it goes; the rules of {@link DirectFile.read}. All numbers are bytes. */
export interface ReadRequest {
  readonly file: DirectFile;
  readonly fileOffset: number;
  readonly length: number;
  /** Must stay allocated until the promise of `submit` settles. */
  readonly target: ArrayBuffer;
  readonly targetOffset: number;
}

export interface ReadQueueOptions {
  /** Reads in flight at once; {@link defaultDepth} if absent. */
  readonly depth?: number;
  /** Bytes of one read, a multiple of 4096; 4 MiB if absent. */
  readonly chunkBytes?: number;
  /** Called before each read of the system, to inject delays, errors and short reads. */
  readonly beforeRead?: BeforeRead | undefined;
  /** The places its reads take; those of the process if absent. */
  readonly turns?: IoTurns;
  /** Of its reads among all that wait for a place; "soon" if absent. */
  readonly urgency?: Urgency;
}

/** Since the queue was made. Bandwidth is `bytes / busySeconds`. */
export interface ReadStats {
  /** Bytes read. */
  readonly bytes: number;
  /** Chunks read. */
  readonly reads: number;
  /** Time with at least one read in flight. */
  readonly busySeconds: number;
}

const DEFAULT_CHUNK = 4 * 2 ** 20;

interface Submission {
  readonly request: ReadRequest;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  readonly signal: AbortSignal | undefined;
  readonly onAbort: () => void;
  /** Bytes handed out as chunks. */
  started: number;
  inFlight: number;
  failure: { readonly error: unknown } | undefined;
}

export class ReadQueue {
  readonly depth: number;
  readonly chunkBytes: number;
  readonly #beforeRead: BeforeRead | undefined;
  readonly #turns: IoTurns;
  readonly #urgency: Urgency;
  /** Submissions with chunks not yet started, in the order of their coming. */
  readonly #waiting: Submission[] = [];
  /** Submissions whose promise has not settled. */
  #unsettled = 0;
  /** Chunks handed out, and those of them that have their place. */
  #inFlight = 0;
  #reading = 0;
  #bytes = 0;
  #reads = 0;
  #busyMs = 0;
  #busySince = 0;
  #idle: (() => void)[] = [];

  /** Throws {@link ConfigError} for a depth or a chunk size that cannot be used. */
  constructor({
    depth = defaultDepth(),
    chunkBytes = DEFAULT_CHUNK,
    beforeRead,
    turns,
    urgency = "soon",
  }: ReadQueueOptions = {}) {
    if (!Number.isSafeInteger(depth) || depth < 1) {
      throw new ConfigError(`read queue: depth ${depth} is not a whole number of at least 1`);
    }
    if (!Number.isSafeInteger(chunkBytes) || chunkBytes < ALIGNMENT || chunkBytes % ALIGNMENT !== 0) {
      throw new ConfigError(`read queue: chunks of ${chunkBytes} bytes are not a multiple of ${ALIGNMENT}`);
    }
    this.depth = depth;
    this.chunkBytes = chunkBytes;
    this.#beforeRead = beforeRead;
    this.#turns = turns ?? processTurns();
    this.#urgency = urgency;
  }

  /**
   * Reads the whole range, or rejects with the first error of its chunks; other submissions go on. Chunks start in the
   * order of submission, those of the next one while the last of this one are in flight.
   *
   * On abort the chunks not yet started are dropped. Either way it settles only when none of its reads is in flight, so
   * that the target may be freed then. Rejects with what {@link DirectFile.read} throws.
   */
  async submit(request: ReadRequest, signal?: AbortSignal): Promise<void> {
    const { file, target, targetOffset, fileOffset, length } = request;
    file.check(target, targetOffset, fileOffset, length);
    if (signal?.aborted) throw new AbortError(signal.reason);
    if (length === 0) return;
    await new Promise<void>((resolve, reject) => {
      const onAbort = () => this.#fail(submission, new AbortError(signal?.reason));
      const submission: Submission = {
        request,
        resolve,
        reject,
        signal,
        onAbort,
        started: 0,
        inFlight: 0,
        failure: undefined,
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#unsettled++;
      this.#waiting.push(submission);
      this.#pump();
    });
  }

  /** Resolves when nothing is queued or in flight. */
  async idle(): Promise<void> {
    if (this.#unsettled > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  stats(): ReadStats {
    const current = this.#reading > 0 ? performance.now() - this.#busySince : 0;
    return { bytes: this.#bytes, reads: this.#reads, busySeconds: (this.#busyMs + current) / 1000 };
  }

  #pump(): void {
    while (this.#inFlight < this.depth) {
      const submission = this.#waiting[0];
      if (!submission) return;
      const from = submission.started;
      const length = Math.min(this.chunkBytes, submission.request.length - from);
      submission.started += length;
      if (submission.started === submission.request.length) this.#waiting.shift();
      void this.#readChunk(submission, from, length);
    }
  }

  /** Never rejects: an error is the submission's. */
  async #readChunk(submission: Submission, from: number, length: number): Promise<void> {
    const { file, target, targetOffset, fileOffset } = submission.request;
    const { signal } = submission;
    submission.inFlight++;
    this.#inFlight++;
    const place = this.#turns.enter(this.#urgency);
    if (place) await place;
    if (this.#reading++ === 0) this.#busySince = performance.now();
    try {
      const options = { signal, beforeRead: this.#beforeRead };
      const got = await file.read(target, targetOffset + from, fileOffset + from, length, options);
      this.#bytes += got;
      this.#reads++;
    } catch (error) {
      this.#fail(submission, error);
    }
    if (--this.#reading === 0) this.#busyMs += performance.now() - this.#busySince;
    this.#turns.leave();
    submission.inFlight--;
    this.#inFlight--;
    this.#settleIfOver(submission);
    this.#pump();
  }

  /** Drops the chunks of a submission that have not started. The first failure is the one it rejects with. */
  #fail(submission: Submission, error: unknown): void {
    submission.failure ??= { error };
    const at = this.#waiting.indexOf(submission);
    if (at >= 0) this.#waiting.splice(at, 1);
    this.#settleIfOver(submission);
  }

  #settleIfOver(submission: Submission): void {
    const { request, failure, signal, onAbort } = submission;
    if (submission.inFlight > 0) return;
    if (!failure && submission.started < request.length) return;
    signal?.removeEventListener("abort", onAbort);
    this.#unsettled--;
    if (failure) submission.reject(failure.error);
    else submission.resolve();
    if (this.#unsettled > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }
}

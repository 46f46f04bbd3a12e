// Runs what the files of others bring along (regexes, normalizers, chat templates) on a thread of its own, with limits on
// time and memory: one thread for all tokenizers of the process, begun when the first is opened and ended with the last.
// What a task means is protocol.ts's and worker.ts's.
import { AbortError, throwIfAborted } from "../../base/errors.ts";
import { Channel } from "./channel.ts";
import { SandboxFailure } from "./failure.ts";
import type { Reply, TaskName, Tasks, TokenizerSource } from "./protocol.ts";

/** Milliseconds for a task of no work. */
const BASE_TIME = 5000;
/** Further milliseconds for each byte of a file or a text: many times what it takes on a machine that is busy otherwise. */
const TIME_PER_BYTE = 0.02;
/** Milliseconds for the thread to begin, on however busy a machine. */
const START_TIME = 60_000;
/**
 * Megabytes of heap without any tokenizer, and for each megabyte of a tokenizer's file. More than tokenizers and templates
 * take within their own limits: a thread that comes to this one in the midst of a large allocation takes the process along.
 */
const BASE_HEAP = 2048;
const HEAP_PER_FILE = 16;
/** Milliseconds without task and tokenizer after which the thread ends. */
const IDLE = 2000;

export interface RunOptions {
  /** Bytes of what is worked on: it may take longer for more. */
  readonly work?: number;
  readonly signal?: AbortSignal | undefined;
}

interface Job {
  readonly id: number;
  readonly task: TaskName;
  readonly input: Tasks[TaskName]["input"];
  readonly work: number;
  /** How long it may take, once it is known what it needs. */
  milliseconds: number;
  done: boolean;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

export class Sandbox {
  #channel: Channel | undefined;
  #isReady = false;
  /** Tokenizers in use, with the bytes of their files, and those of them that the thread has. */
  readonly #sources = new Map<number, { source: TokenizerSource; bytes: number }>();
  readonly #present = new Set<number>();
  #released: number[] = [];
  #next = 1;
  /** What the thread works on, and what waits for it. */
  #active: Job | undefined;
  readonly #waiting: Job[] = [];
  /** Threads that have been told to end and have not yet. */
  readonly #ending = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #idle: NodeJS.Timeout | undefined;

  /** Begins the thread, if it has not begun, so that it is there when it is needed. */
  start(): void {
    this.#channel ??= this.#begin();
  }

  /** Makes a tokenizer known; it is read with the first task about it. @param bytes size of its file */
  add(source: TokenizerSource, bytes: number): number {
    const handle = this.#next++;
    this.#sources.set(handle, { source, bytes });
    return handle;
  }

  release(handle: number): void {
    this.#sources.delete(handle);
    if (this.#present.delete(handle)) this.#released.push(handle);
    this.#rest();
  }

  /** Ends the thread, unless it is at work, and resolves when nothing is held of it. The next task begins another. */
  async end(): Promise<void> {
    if (this.#active === undefined) this.#end();
    await Promise.all(this.#ending);
  }

  /** Does a task. Throws {@link SandboxFailure}, AbortError, or what structured cloning of the input throws. */
  run<T extends TaskName>(
    task: T,
    input: Tasks[T]["input"],
    options: RunOptions = {},
  ): Promise<Tasks[T]["output"]> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      throwIfAborted(signal);
      const onAbort = () => this.#cancel(job, new AbortError(signal!.reason));
      const job = this.#job(task, input, options, {
        resolve: (value) => {
          signal?.removeEventListener("abort", onAbort);
          resolve(value as Tasks[T]["output"]);
        },
        reject: (error) => {
          signal?.removeEventListener("abort", onAbort);
          reject(error);
        },
      });
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.push(job);
      this.#advance();
    });
  }

  /** As {@link run}, holding up the event loop until it is done or its time is over. */
  runSync<T extends TaskName>(
    task: T,
    input: Tasks[T]["input"],
    options: RunOptions = {},
  ): Tasks[T]["output"] {
    let value: unknown;
    let failure: { error: unknown } | undefined;
    const job = this.#job(task, input, options, {
      resolve: (result) => {
        value = result;
      },
      reject: (error) => {
        failure = { error };
      },
    });
    // Whatever is under way is finished first, the rest waits behind this.
    this.#waiting.unshift(job);
    this.#advance();
    while (!job.done) {
      const active = this.#active!;
      const channel = this.#channel!;
      if (!this.#isReady && !channel.wait(() => this.#isReady, START_TIME))
        this.#overtime(active, "its thread did not begin");
      else if (!active.done && !channel.wait(() => active.done, active.milliseconds)) {
        // What runs in it catches its own errors: it has gone for want of memory.
        if (channel.gone) this.#lost("memory", "");
        else this.#overtime(active);
      }
    }
    if (failure !== undefined) throw failure.error;
    return value as Tasks[T]["output"];
  }

  #job(
    task: TaskName,
    input: Tasks[TaskName]["input"],
    { work = 0 }: RunOptions,
    ends: Pick<Job, "resolve" | "reject">,
  ): Job {
    return { id: this.#next++, task, input, work, milliseconds: BASE_TIME, done: false, ...ends };
  }

  /** Hands the next job to the thread, if there is one and the thread is free. */
  #advance(): void {
    if (this.#active !== undefined) return;
    const job = this.#waiting.shift();
    if (job === undefined) {
      this.#channel?.hold(false);
      this.#rest();
      return;
    }
    clearTimeout(this.#idle);
    if (this.#channel !== undefined && this.#channel.heapMegabytes < this.#heap()) this.#end();
    this.#channel ??= this.#begin();
    const channel = this.#channel;
    this.#active = job;
    const handle = handleOf(job.input);
    const known = handle === undefined ? undefined : this.#sources.get(handle);
    const source = handle === undefined || this.#present.has(handle) ? undefined : known?.source;
    job.milliseconds = BASE_TIME + TIME_PER_BYTE * (job.work + (source === undefined ? 0 : known!.bytes));
    try {
      channel.send({ id: job.id, task: job.task, input: job.input, source, released: this.#released });
    } catch (error) {
      // The input holds what cannot be handed to a thread.
      this.#finish(job, () => job.reject(error));
      return;
    }
    this.#released = [];
    channel.hold(true);
    if (this.#isReady) this.#setTimer(job);
  }

  #setTimer(job: Job): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#overtime(job), job.milliseconds);
  }

  #begin(): Channel {
    this.#isReady = false;
    const channel: Channel = new Channel(this.#heap(), {
      onReply: (reply) => {
        if (channel === this.#channel) this.#receive(reply);
      },
      onEnd: (kind, message) => {
        if (channel === this.#channel) this.#lost(kind, message);
      },
    });
    return channel;
  }

  #heap(): number {
    let bytes = 0;
    for (const entry of this.#sources.values()) bytes += entry.bytes;
    return BASE_HEAP + Math.ceil((bytes / 2 ** 20) * HEAP_PER_FILE);
  }

  #receive(reply: Reply): void {
    const job = this.#active;
    if ("ready" in reply) {
      this.#isReady = true;
      if (job !== undefined) this.#setTimer(job);
      return;
    }
    if (job === undefined || reply.id !== job.id) return;
    const handle = handleOf(job.input);
    if (handle !== undefined && reply.has) {
      if (this.#sources.has(handle)) this.#present.add(handle);
      else this.#released.push(handle);
    }
    if ("failure" in reply) {
      const { kind, message } = reply.failure;
      this.#finish(job, () => job.reject(new SandboxFailure(kind, message)));
      return;
    }
    this.#finish(job, () => job.resolve(reply.value));
  }

  #finish(job: Job, end: () => void): void {
    clearTimeout(this.#timer);
    job.done = true;
    this.#active = undefined;
    end();
    this.#advance();
  }

  #overtime(job: Job, message?: string): void {
    this.#end();
    const seconds = (job.milliseconds / 1000).toFixed(1);
    const why = message ?? `it was not done after ${seconds} s and was ended`;
    this.#finish(job, () => job.reject(new SandboxFailure("time", why)));
  }

  /** The thread has ended by itself. */
  #lost(kind: "memory" | "ended", message: string): void {
    const job = this.#active;
    const heap = this.#channel?.heapMegabytes;
    this.#end();
    const why = kind === "memory" ? `it needed more than the ${heap} MiB of memory that it may use` : message;
    if (job !== undefined) this.#finish(job, () => job.reject(new SandboxFailure(kind, why)));
  }

  #cancel(job: Job, error: AbortError): void {
    if (job.done) return;
    if (job === this.#active) {
      this.#end();
      this.#finish(job, () => job.reject(error));
      return;
    }
    const at = this.#waiting.indexOf(job);
    if (at >= 0) this.#waiting.splice(at, 1);
    job.done = true;
    job.reject(error);
  }

  /** Ends the thread. The next task begins another, which reads again what it needs. */
  #end(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#idle);
    const ending = this.#channel?.terminate();
    if (ending !== undefined) {
      this.#ending.add(ending);
      void ending.then(() => this.#ending.delete(ending));
    }
    this.#channel = undefined;
    this.#present.clear();
    this.#released = [];
  }

  /** Without a task and a tokenizer the thread ends after a while. */
  #rest(): void {
    if (this.#active !== undefined || this.#sources.size > 0 || this.#channel === undefined) return;
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => {
      if (this.#active === undefined && this.#sources.size === 0) this.#end();
    }, IDLE);
    this.#idle.unref();
  }
}

function handleOf(input: Tasks[TaskName]["input"]): number | undefined {
  return "tokenizer" in input ? input.tokenizer : undefined;
}

let shared: Sandbox | undefined;

/** The sandbox of the process. */
export function sandbox(): Sandbox {
  shared ??= new Sandbox();
  return shared;
}

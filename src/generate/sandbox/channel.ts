// One thread of the sandbox and the way to talk to it, asynchronously or waiting. Knows no tasks and no limits of time.
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { brotliDecompressSync } from "node:zlib";
import type { Reply, Request } from "./protocol.ts";
import PACKED from "./worker.ts?text";

/** Milliseconds after which a waiting thread looks whether the other is still there. */
const LOOK_AFTER = 50;

let unpacked: string | undefined;

function script(): string {
  unpacked ??= brotliDecompressSync(Buffer.from(PACKED, "base64")).toString("utf8");
  return unpacked;
}

export interface ChannelEvents {
  readonly onReply: (reply: Reply) => void;
  /** The thread has ended by itself. */
  readonly onEnd: (kind: "memory" | "ended", message: string) => void;
}

export class Channel {
  /** Megabytes of heap that the thread may use. */
  readonly heapMegabytes: number;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  /** Number of replies, which a waiting thread can sleep on. */
  readonly #replies = new Int32Array(new SharedArrayBuffer(4));
  readonly #events: ChannelEvents;
  #ended = false;

  constructor(heapMegabytes: number, events: ChannelEvents) {
    this.heapMegabytes = heapMegabytes;
    this.#events = events;
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#worker = new Worker(script(), {
      eval: true,
      name: "spillway-sandbox",
      // Nothing of how the process was started or of its secrets is of use there; the time zone is the process's own.
      env: {},
      execArgv: [],
      workerData: { port: port2, replies: this.#replies },
      transferList: [port2],
      resourceLimits: { maxOldGenerationSizeMb: heapMegabytes, maxYoungGenerationSizeMb: 32 },
    });
    this.#worker.once("error", (error: Error & { code?: string }) => {
      const outOfMemory = error.code === "ERR_WORKER_OUT_OF_MEMORY";
      this.#end(outOfMemory ? "memory" : "ended", error.message);
    });
    this.#worker.once("exit", (code) => this.#end("ended", `its thread ended with code ${code}`));
    this.#worker.unref();
    port1.on("message", (reply: Reply) => {
      if (!this.#ended) events.onReply(reply);
    });
    port1.unref();
  }

  /** Whether the process waits for the thread before it ends. */
  hold(holds: boolean): void {
    if (holds) this.#port.ref();
    else this.#port.unref();
  }

  /** Throws what structured cloning throws. */
  send(request: Request): void {
    void this.gone;
    this.#port.postMessage(request);
  }

  /**
   * Whether the thread has ended, also where its events cannot be heard because the event loop is held up. Known of threads
   * that began before it was held up, and if it was asked before, while the thread ran.
   */
  get gone(): boolean {
    // A thread that has stopped has no time of its own any more: -1.
    return this.#ended || this.#worker.performance.eventLoopUtilization().idle < 0;
  }

  /** Hands on replies until `isDone`, holding up the event loop. Returns whether it was done, within the time and at all. */
  wait(isDone: () => boolean, milliseconds: number): boolean {
    const until = performance.now() + milliseconds;
    for (;;) {
      const seen = Atomics.load(this.#replies, 0);
      const { gone } = this;
      for (let m = receiveMessageOnPort(this.#port); m !== undefined; m = receiveMessageOnPort(this.#port))
        this.#events.onReply(m.message as Reply);
      if (isDone()) return true;
      const left = until - performance.now();
      if (left <= 0 || gone) return false;
      Atomics.wait(this.#replies, 0, seen, Math.min(left, LOOK_AFTER));
    }
  }

  /** Ends the thread at once, in the middle of whatever it does. No more events come. Resolves when it has ended. */
  async terminate(): Promise<void> {
    this.#ended = true;
    this.#port.close();
    // There is nothing to do if it fails.
    await this.#worker.terminate().catch(() => {});
  }

  #end(kind: "memory" | "ended", message: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#port.close();
    this.#events.onEnd(kind, message);
  }
}

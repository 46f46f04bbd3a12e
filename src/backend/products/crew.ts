// The threads that compute graphs with wide products: started once, asleep between graphs, ended by `dispose`. Each calls the
// library with one thread of its own and takes tiles of a product until none is left, so that a busy core delays its own tile.
import { Worker } from "node:worker_threads";
import { brotliDecompressSync } from "node:zlib";
import { DisposedError, LibraryError } from "../../base/errors.ts";
import type { NativeBuffer } from "../ggml/buffer.ts";
import { cpuMemory } from "../ggml/device.ts";
import { DTYPES } from "../ggml/dtypes.ts";
import { library } from "../ggml/library.ts";
import { ffiFile } from "../ggml/loading/ffi.ts";
import { needThreads } from "../ggml/loading/threads.ts";
import { rowBytes } from "../ggml/tensor.ts";
import type { ProductLibrary } from "./find.ts";
import {
  type CrewReply,
  type CrewThreadData,
  controlWords,
  DIED,
  FAILED,
  type GraphJob,
  STEP,
} from "./job.ts";
import { KEPT_PRIMITIVES, RESULT_BYTES } from "./kernel.ts";
import { encodeProducts, type PlacedProduct, SINGLE, UNPACKED_BYTES, type WideProduct } from "./product.ts";
import PACKED from "./worker.ts?text";

/** Scratch of a thread for unpacked weights and a row on its way; for the library; for results that are copied. Bytes. */
export const UNPACKING_BYTES = UNPACKED_BYTES + 256 * 1024;
const SCRATCHPAD_BYTES = 768 * 1024;
const SCRATCH_BYTES = UNPACKING_BYTES + SCRATCHPAD_BYTES + RESULT_BYTES;
/** What oneDNN's gemm packs operands in: two blocks of at most 384 x 512 f32, for the tiles of product.ts. Bytes. */
const OWN_BYTES = 2 * 2 ** 20;
/** Resident memory of a thread with its heap. Bytes. */
const HEAP_BYTES = 8 * 2 ** 20;
/** Generated code of one primitive, measured. Bytes. */
const CODE_BYTES = 300 * 1024;
/** The heap of a thread holds its few lines and koffi. */
const LIMITS = { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2, stackSizeMb: 1 } as const;

let unpacked: string | undefined;

export class ProductCrew {
  readonly library: ProductLibrary;
  /** Whether the library has fast products of bf16 on this processor. */
  readonly hasBf16: boolean;
  readonly #threads: readonly CrewThread[];
  readonly #scratch: NativeBuffer;
  /** An empty graph that the nodes between two products are put into, with room for so many. */
  #segment: { readonly context: bigint; readonly graph: bigint; readonly nodes: number } | undefined;
  #disposed = false;
  /** The graph under way. */
  #control: Int32Array | undefined;

  private constructor(
    found: ProductLibrary,
    threads: readonly CrewThread[],
    scratch: NativeBuffer,
    hasBf16: boolean,
  ) {
    this.library = found;
    this.#threads = threads;
    this.#scratch = scratch;
    this.hasBf16 = hasBf16;
    // The first waits for what a dead one has taken.
    for (const thread of threads) {
      thread.onEnd = () => {
        if (!this.#control) return;
        Atomics.store(this.#control, FAILED, DIED);
        Atomics.notify(this.#control, STEP);
      };
    }
  }

  /** Bytes that a crew takes at most. */
  static bytes(threads: number): number {
    return threads * (SCRATCH_BYTES + OWN_BYTES + HEAP_BYTES) + KEPT_PRIMITIVES * CODE_BYTES;
  }

  /** Starts the threads. Throws {@link LibraryError} where one cannot be started; nothing is left then. */
  static async start(found: ProductLibrary, count: number): Promise<ProductCrew> {
    needThreads(count, `wide products with ${count} threads`);
    const main = library().folders.find((folder) => folder.cpu.length > 0);
    if (!main) throw new LibraryError("the library the CPU backend came from is not known");
    const scratch = cpuMemory().allocate(count * SCRATCH_BYTES);
    const { kind, file, major } = found;
    const threads = Array.from({ length: count }, (_, index) => {
      const address = Number(scratch.address(index * SCRATCH_BYTES));
      return new CrewThread({
        koffi: ffiFile(),
        ggml: main.base,
        library: { kind, file, major },
        index,
        scratch: { address, bytes: SCRATCH_BYTES },
        unpacking: UNPACKING_BYTES,
      });
    });
    try {
      const replies = await Promise.all(threads.map((thread) => thread.answer()));
      const hasBf16 = replies.every((reply) => "ready" in reply && reply.hasBf16);
      return new ProductCrew(found, threads, scratch, hasBf16);
    } catch (error) {
      await Promise.all(threads.map((thread) => thread.end()));
      scratch.dispose();
      throw failure("could not be started", error);
    }
  }

  /**
   * Computes a graph on a compute stream of the CPU backend, its products by the crew. One at a time: the caller's queue
   * sees to that. Throws {@link LibraryError}; no thread is at work any more then.
   */
  async compute(
    backend: bigint,
    graph: bigint,
    products: readonly WideProduct[],
    threads = this.#threads.length,
  ): Promise<void> {
    if (this.#disposed) throw new DisposedError("the threads of wide products");
    const segment = this.#segmentFor(library().native.ggml_graph_n_nodes(graph));
    const placed = products.flatMap(place);
    const job: GraphJob = {
      ...{ backend: Number(backend), graph: Number(graph), segment: Number(segment) },
      products: encodeProducts(placed),
      control: new Int32Array(new SharedArrayBuffer(4 * controlWords(placed.length))),
    };
    this.#control = job.control;
    const [first, ...others] = this.#threads.slice(0, threads) as [CrewThread, ...CrewThread[]];
    const reply = first.ask(job);
    for (const other of others) other.tell(job);
    let problem: string | undefined;
    try {
      const answer = await reply;
      problem = "problem" in answer ? answer.problem : undefined;
    } catch (error) {
      throw failure("died at work", error);
    } finally {
      this.#control = undefined;
    }
    if (problem === undefined) return;
    const told = this.#threads.map((thread) => thread.takeProblem()).find((text) => text !== undefined);
    throw new LibraryError(
      `${this.library.name}: computing failed: ${told ?? problem}; SPILLWAY_DNNL=off avoids it`,
    );
  }

  #segmentFor(nodes: number): bigint {
    if (this.#segment && this.#segment.nodes >= nodes) return this.#segment.graph;
    const { native } = library();
    if (this.#segment) native.ggml_free(this.#segment.context);
    this.#segment = undefined;
    const room = Math.max(1024, nodes);
    const mem_size = Number(native.ggml_graph_overhead_custom(room, false)) + 1024;
    const context = native.ggml_init({ mem_size, mem_buffer: null, no_alloc: true });
    if (!context) throw new LibraryError(`a graph of ${room} nodes could not be allocated`);
    this.#segment = { context, graph: native.ggml_new_graph_custom(context, room, false), nodes: room };
    return this.#segment.graph;
  }

  /** Ends the threads once they have done what they were asked for. Safe to call twice. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await Promise.all(this.#threads.map((thread) => thread.end()));
    this.#scratch.dispose();
    if (this.#segment) library().native.ggml_free(this.#segment.context);
    this.#segment = undefined;
  }
}

/** With addresses; nothing where the graph does not need the result, so that it has no memory. */
function place(p: WideProduct): PlacedProduct[] {
  const { native } = library();
  const [a, b, c] = [p.a, p.b, p.node].map((tensor) => Number(native.ggml_get_data(tensor)));
  if (!c) return [];
  if (!a || !b) throw new LibraryError("a wide product has an operand without memory");
  const { m, n, k, lda, ldb, ldc, turnedA, turnedB, packed } = p;
  const unpacking = { packed: packed ? DTYPES[packed].id : -1, rowBytes: packed ? rowBytes(packed, k) : 0 };
  const more = { bf16: p.arithmetic === "bf16", stack: p.stack ?? SINGLE };
  return [{ node: Number(p.node), a, b, c, m, n, k, lda, ldb, ldc, turnedA, turnedB, ...more, ...unpacking }];
}

/**
 * One thread. It keeps the process alive only while it is waited for. It is never terminated, but asked to end: koffi ends
 * the process where a thread is terminated while it loads libraries.
 */
class CrewThread {
  readonly #worker: Worker;
  readonly #exited: Promise<void>;
  /** Called when it is gone. */
  onEnd: () => void = () => {};
  #failure: Error | undefined;
  #problem: string | undefined;
  #waiting: { resolve: (reply: CrewReply) => void; reject: (error: Error) => void } | undefined;

  constructor(workerData: CrewThreadData) {
    unpacked ??= brotliDecompressSync(Buffer.from(PACKED, "base64")).toString("utf8");
    this.#worker = new Worker(unpacked, {
      ...{ eval: true, workerData, execArgv: [], resourceLimits: LIMITS, name: "spillway products" },
    });
    this.#worker.unref();
    this.#worker.on("message", (reply: CrewReply) => {
      // What went wrong with a tile is told on the way.
      if ("problem" in reply && !("done" in reply)) this.#problem = reply.problem;
      else this.#waiting?.resolve(reply);
    });
    this.#worker.on("error", (error: Error) => this.#fail(error));
    this.#exited = new Promise((resolve) => {
      this.#worker.on("exit", (code) => {
        this.#fail(new Error(`it ended with code ${code}`));
        resolve();
      });
    });
  }

  tell(job: GraphJob): void {
    this.#worker.postMessage(job);
  }

  ask(job: GraphJob): Promise<CrewReply> {
    const answer = this.answer();
    this.tell(job);
    return answer;
  }

  /** Resolves with the next reply, rejects if there cannot be one. */
  async answer(): Promise<CrewReply> {
    if (this.#failure) throw this.#failure;
    this.#worker.ref();
    try {
      return await new Promise<CrewReply>((resolve, reject) => {
        this.#waiting = { resolve, reject };
      });
    } finally {
      this.#worker.unref();
      this.#waiting = undefined;
    }
  }

  takeProblem(): string | undefined {
    const problem = this.#problem;
    this.#problem = undefined;
    return problem;
  }

  /** Resolves when the thread is gone. */
  async end(): Promise<void> {
    if (!this.#failure) {
      this.#worker.ref();
      this.#worker.postMessage("end");
    }
    await this.#exited;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
    this.onEnd();
  }
}

function failure(what: string, cause: unknown): LibraryError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new LibraryError(
    `a thread of wide products ${what} (${why}); SPILLWAY_DNNL=off computes without them`,
    {
      cause,
    },
  );
}

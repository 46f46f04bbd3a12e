// The library's pools of threads, one for each number that graphs are run with. A pool sleeps while it is not used; one pool
// of the largest size would be woken whole for every graph, however few threads compute it.
import { DisposedError, LibraryError } from "../../../base/errors.ts";
import { structures } from "../declarations.ts";
import { library } from "../library.ts";
import { ffi } from "../loading/ffi.ts";
import { needThreads, tryThreads } from "../loading/threads.ts";

export class ThreadPools {
  readonly #backend: bigint;
  readonly #find: (name: string) => bigint;
  readonly #pools = new Map<number, bigint>();
  #attached: number | undefined;
  #disposed = false;

  /** Pools of a CPU device for one of its backends; both must outlive the pools' use. */
  constructor(device: bigint, backend: bigint) {
    const { native } = library();
    const registry = native.ggml_backend_dev_backend_reg(device);
    this.#backend = backend;
    this.#find = (name) => {
      const address = native.ggml_backend_reg_get_proc_address(registry, name);
      if (!address) throw new LibraryError(`the CPU backend lacks ${name}`);
      return address;
    };
  }

  /** Whether there is a pool of so many threads, or the system gives as many now. */
  available(threads: number): boolean {
    return this.#pools.has(threads) || tryThreads(threads - 1) >= threads - 1;
  }

  /** Graphs run with so many threads from now on. No graph may be running. Throws LibraryError where the system refuses them. */
  attach(threads: number): void {
    if (this.#disposed) throw new DisposedError("the threads of a device");
    if (this.#attached === threads) return;
    const pool = this.#pools.get(threads) ?? this.#open(threads);
    const types = structures();
    ffi().call(this.#find("ggml_backend_set_n_threads"), types.setThreads, this.#backend, threads);
    ffi().call(this.#find("ggml_backend_cpu_set_threadpool"), types.setThreadpool, this.#backend, pool);
    this.#attached = threads;
  }

  /** Threads sleep between graphs (poll 0): spinning would starve the reads that run meanwhile. */
  #open(threads: number): bigint {
    const koffi = ffi();
    const types = structures();
    const params = Buffer.alloc(koffi.sizeof(types.threadpoolParams));
    koffi.encode(params, types.threadpoolParams, {
      cpumask: new Array(512).fill(false),
      n_threads: threads,
      prio: 0,
      poll: 0,
      strict_cpu: false,
      paused: false,
    });
    // The library aborts the process where the system refuses a thread.
    needThreads(threads - 1, `computing with ${threads} threads`);
    const pool = koffi.call(this.#find("ggml_threadpool_new"), types.newThreadpool, params) as bigint | null;
    if (!pool) throw new LibraryError(`a pool of ${threads} threads could not be made`);
    this.#pools.set(threads, pool);
    return pool;
  }

  /** Ends the threads; the backend must be gone. Safe to call twice. */
  dispose(): void {
    this.#disposed = true;
    const free = this.#find("ggml_threadpool_free");
    for (const pool of this.#pools.values()) ffi().call(free, structures().freeThreadpool, pool);
    this.#pools.clear();
    this.#attached = undefined;
  }
}

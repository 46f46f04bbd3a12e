// Where arithmetic runs: the CPU with its threads, or one GPU with a stream for compute and one for copies.

import { OneByOne } from "../../base/async/one-by-one.ts";
import { ConfigError, DisposedError, LibraryError } from "../../base/errors.ts";
import type { Arithmetic, WideProduct, WideProducts } from "../products/product.ts";
import { BufferType } from "./buffer.ts";
import { structures } from "./declarations.ts";
import { library, onThread } from "./library.ts";
import { ffi } from "./loading/ffi.ts";
import type { ThreadUse } from "./threads/choice.ts";
import { ThreadPools } from "./threads/pools.ts";
import { CpuThreads, type OptionalWork, type ThreadOptions } from "./threads/threads.ts";

export interface DeviceInfo {
  /** "cpu", "cuda:0", "vulkan:1", "metal:0" */
  readonly name: string;
  readonly kind: "cpu" | "gpu";
  readonly description: string;
  /** Bytes; 0 where the backend does not say. */
  readonly memoryFree: number;
  readonly memoryTotal: number;
  readonly handle: bigint;
}

interface Props {
  name: string;
  description: string;
  memory_free: number;
  memory_total: number;
  type: number;
  async: boolean;
  host_buffer: boolean;
  events: boolean;
}

function props(handle: bigint): Props {
  const { deviceProps } = structures();
  const raw = Buffer.alloc(ffi().sizeof(deviceProps));
  library().native.ggml_backend_dev_get_props(handle, raw);
  return ffi().decode(raw, deviceProps) as Props;
}

/** enum ggml_backend_dev_type; accelerators that only help the CPU are not listed. */
const KINDS: Record<number, DeviceInfo["kind"] | undefined> = { 0: "cpu", 1: "gpu", 2: "gpu" };

/** Whether a device has memory of its own. */
export function isGpu(info: Pick<DeviceInfo, "kind">): boolean {
  return info.kind === "gpu";
}

/** Every device the library reports, the CPU last. `gpu: false` leaves GPU drivers alone. */
export function listDevices(options: { gpu?: boolean } = {}): DeviceInfo[] {
  const lib = library();
  if (options.gpu !== false) lib.loadGpuBackends();
  const devices: DeviceInfo[] = [];
  const counts = new Map<string, number>();
  for (let i = 0; i < Number(lib.native.ggml_backend_dev_count()); i++) {
    const handle = lib.native.ggml_backend_dev_get(i);
    const p = props(handle);
    const kind = KINDS[p.type];
    if (!kind) continue;
    const family = lib.native
      .ggml_backend_reg_name(lib.native.ggml_backend_dev_backend_reg(handle))
      .toLowerCase();
    const prefix = !isGpu({ kind }) ? "cpu" : family === "mtl" ? "metal" : family;
    const index = counts.get(prefix) ?? 0;
    counts.set(prefix, index + 1);
    devices.push({
      name: isGpu({ kind }) ? `${prefix}:${index}` : "cpu",
      kind,
      description: p.description,
      memoryFree: Number(p.memory_free),
      memoryTotal: Number(p.memory_total),
      handle,
    });
  }
  return devices.sort((a, b) => Number(isGpu(b)) - Number(isGpu(a)));
}

/**
 * The device a name means: "auto" (the first GPU, else the CPU), "cpu", "gpu", "cuda", "vulkan:0" ...
 * Throws {@link ConfigError} that lists the devices there are.
 */
export function findDevice(name: string): DeviceInfo {
  const wanted = name.toLowerCase();
  const devices = listDevices({ gpu: wanted !== "cpu" });
  const match =
    wanted === "auto"
      ? devices[0]
      : wanted === "gpu"
        ? devices.find(isGpu)
        : devices.find((d) => d.name === wanted || d.name.startsWith(`${wanted}:`));
  if (match) return match;
  const have = devices.map((d) => `${d.name} (${d.description})`).join(", ");
  throw new ConfigError(
    `device "${name}" was not found; there are: ${have}. \`spillway doctor\` says what is missing`,
  );
}

/** A graph with what of it is computed outside the library. */
export interface WideGraph {
  readonly handle: bigint;
  readonly products: readonly WideProduct[];
}

/** How long {@link Device.soon} waits for its turn: longer than graphs take, but for the largest models. */
export const PATIENCE_MS = 500;

/** An opened device. One computation at a time; calls queue. */
export class Device {
  readonly info: DeviceInfo;
  readonly kind: "cpu" | "gpu";
  /** Where weights, KV and activations of this device live. */
  readonly memory: BufferType;
  /** Host memory this device copies from and to fastest (pinned, where the backend offers it). */
  readonly hostMemory: BufferType;
  /** Copies can be queued on a second stream and ordered with events. */
  readonly asyncCopies: boolean;
  /** Chooses how many threads compute on the CPU; the optimizer and others that use its cores ask it too. */
  readonly team: CpuThreads;
  /** What computes wide products instead of the library, if anything: see products/open.ts. Disposed with the device. */
  products: WideProducts | undefined;
  #compute: bigint | undefined;
  #copy: bigint | undefined;
  readonly #queue = new OneByOne();

  private constructor(info: DeviceInfo, options: ThreadOptions) {
    const { native } = library();
    this.info = info;
    this.kind = info.kind;
    const p = props(info.handle);
    this.memory = new BufferType(native.ggml_backend_dev_buffer_type(info.handle));
    const pinned = isGpu(info) ? native.ggml_backend_dev_host_buffer_type(info.handle) : null;
    this.hostMemory = pinned ? new BufferType(pinned) : cpuMemory();
    this.asyncCopies = isGpu(info) && p.async && p.events;
    this.#compute = native.ggml_backend_dev_init(info.handle, null) ?? undefined;
    if (!this.#compute) throw new LibraryError(`${info.name}: the device could not be opened`);
    try {
      const pools = this.onHost ? new ThreadPools(info.handle, this.#compute) : undefined;
      this.team = new CpuThreads(options, pools);
    } catch (error) {
      native.ggml_backend_free(this.#compute);
      throw error;
    }
  }

  /** Opens a device; the options count for the CPU alone. */
  static open(info: DeviceInfo, options: ThreadOptions): Device {
    return new Device(info, options);
  }

  /** The most threads that compute on the CPU. */
  get threads(): number {
    return this.team.most;
  }

  /** What was computed with how many threads of the CPU so far. */
  threadUses(): ThreadUse[] {
    return this.team.uses();
  }

  get name(): string {
    return this.info.name;
  }

  /** Its memory is the processor's own: what is in RAM is where it is computed. */
  get onHost(): boolean {
    return !isGpu(this.info);
  }

  /** Whether the device can run one node of a graph. */
  supports(node: bigint): boolean {
    return library().native.ggml_backend_dev_supports_op(this.info.handle, node);
  }

  /** Bytes free and in all, as the driver reports them now. */
  freeMemory(): { free: number; total: number } {
    const p = props(this.info.handle);
    return { free: Number(p.memory_free), total: Number(p.memory_total) };
  }

  /** In which arithmetic a product goes outside the library; undefined: it does not. By kind, type and shape alone. */
  wideArithmetic(...product: Parameters<WideProducts["arithmetic"]>): Arithmetic | undefined {
    return this.products?.arithmetic(...product);
  }

  /**
   * Runs a graph and resolves when its results are in memory. Graphs of one device run one after another. A handle alone will
   * do for graphs that were not built to have wide products. `work` says how runs are compared to choose a number of threads;
   * without it a graph gets all.
   */
  compute(graph: bigint | WideGraph, work?: OptionalWork): Promise<void> {
    return this.alone(async () => {
      const { native } = library();
      const { backend } = this;
      const { handle, products } = typeof graph === "bigint" ? { handle: graph, products: [] } : graph;
      if (products.length > 0) {
        const wide = this.products;
        if (!wide) throw new DisposedError("what computes wide products");
        await this.team.graph(work, (threads) => wide.compute(backend, handle, products, threads));
        return;
      }
      const status = await this.team.graph(work, () =>
        onThread(native.ggml_backend_graph_compute, backend, handle),
      );
      if (status !== 0) {
        throw new LibraryError(`${this.name}: computing failed: ${native.ggml_status_to_string(status)}`);
      }
    });
  }

  /**
   * Runs work of another kind when no graph of the device runs. For what would take a core from the CPU's kernels: their
   * threads wait for one another at every operation, so a graph then takes much longer than that work.
   */
  alone<T>(work: () => Promise<T>): Promise<T> {
    return this.#queue.run(work);
  }

  /**
   * As {@link alone}, but waits for no more than {@link PATIENCE_MS}: what has to be done between long graphs would never
   * be done in time, and is done beside one.
   */
  soon<T>(work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let begun: Promise<void> | undefined;
      const begin = () => {
        begun ??= work().then(resolve, reject);
        return begun;
      };
      const impatience = setTimeout(begin, PATIENCE_MS);
      void this.alone(async () => {
        clearTimeout(impatience);
        await begin();
      });
    });
  }

  /** Resolves when nothing is computing any more. */
  async idle(): Promise<void> {
    await this.#queue.idle();
  }

  /** The compute stream. */
  get backend(): bigint {
    if (this.#compute === undefined) throw new DisposedError(`device ${this.name}`);
    return this.#compute;
  }

  /** The copy stream: made on first use, on the same device as the compute stream. */
  get copyBackend(): bigint {
    if (this.#compute === undefined) throw new DisposedError(`device ${this.name}`);
    this.#copy ??= library().native.ggml_backend_dev_init(this.info.handle, null) ?? undefined;
    if (!this.#copy) throw new LibraryError(`${this.name}: a second stream could not be opened`);
    return this.#copy;
  }

  /**
   * To be called after device memory was freed while the device stays open, with nothing computing. Mesa's software
   * Vulkan counts references to freed buffers through descriptors it still holds; a new stream has none.
   */
  forgetBuffers(): void {
    if (this.onHost || this.#compute === undefined) return;
    const { native } = library();
    native.ggml_backend_free(this.#compute);
    this.#compute = native.ggml_backend_dev_init(this.info.handle, null) ?? undefined;
    if (!this.#compute) throw new LibraryError(`${this.info.name}: the device could not be opened again`);
  }

  /** From now on the library computes all products. No graph that was built to have wide ones may be computed any more. */
  async closeProducts(): Promise<void> {
    await this.idle();
    const { products } = this;
    this.products = undefined;
    await products?.dispose();
  }

  /** Waits for the running graph, then frees the streams and threads. Safe to call twice. */
  async dispose(): Promise<void> {
    await this.closeProducts();
    const { native } = library();
    if (this.#copy !== undefined) native.ggml_backend_free(this.#copy);
    if (this.#compute !== undefined) native.ggml_backend_free(this.#compute);
    this.team.dispose();
    this.#copy = this.#compute = undefined;
  }
}

/** Plain host memory. */
export function cpuMemory(): BufferType {
  const cpu = listDevices({ gpu: false }).find((d) => !isGpu(d));
  if (!cpu) throw new LibraryError("the library reports no CPU device");
  return new BufferType(library().native.ggml_backend_dev_buffer_type(cpu.handle));
}

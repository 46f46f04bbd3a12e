// A graph under construction: native headers, inputs, and the order of nodes. Operations are in ops.ts.
// Everything ggml would assert is checked here or there first, because a failed assert ends the process.
import { GraphError } from "../../base/errors.ts";
import type { WideProduct } from "../products/product.ts";
import type { NativeBuffer } from "./buffer.ts";
import type { Device } from "./device.ts";
import { bytesOf, DTYPES, type DType } from "./dtypes.ts";
import { library } from "./library.ts";
import { type BufferPlace, contiguousStrides, type Shape, shape, Tensor } from "./tensor.ts";

/** One operation as it was built; what gradients are derived from. */
export interface TapeEntry {
  readonly op: string;
  readonly inputs: readonly (Tensor | undefined)[];
  readonly output: Tensor;
  readonly params: Readonly<Record<string, unknown>>;
}

/** Looks on while a graph is built. */
export interface BuildObserver {
  /** An operation is recorded, the `index`-th on the tape; a tensor that is returned stands for its result from here on. */
  recorded?(entry: TapeEntry, index: number): Tensor | undefined;
  /** An operation that is not recorded takes these. */
  unrecorded?(inputs: readonly (Tensor | undefined)[]): void;
}

/** Native headers of tensors: a bounded arena that is reset, not freed, between graphs. */
export class HeaderArena {
  readonly capacity: number;
  #context: bigint | undefined;
  #used = 0;

  /** Bytes of an arena for so many tensors. */
  static bytes(capacity: number, options: { graph?: boolean } = {}): number {
    const { native } = library();
    const overhead = Number(native.ggml_tensor_overhead());
    const graph = options.graph ? Number(native.ggml_graph_overhead_custom(capacity, false)) : 0;
    return overhead * (capacity + 1) + graph + 64;
  }

  /** `capacity`: tensors it can hold. `graph`: leave room for one graph of as many nodes. */
  constructor(capacity: number, options: { graph?: boolean } = {}) {
    const { native } = library();
    this.capacity = capacity;
    const mem_size = HeaderArena.bytes(capacity, options);
    const context = native.ggml_init({ mem_size, mem_buffer: null, no_alloc: true });
    if (!context) throw new GraphError(`headers for ${capacity} tensors could not be allocated`);
    this.#context = context;
  }

  get context(): bigint {
    if (this.#context === undefined) throw new GraphError("headers were used after they were freed");
    return this.#context;
  }

  /** Counts one header in; ggml aborts when an arena overflows, so this must be asked first. */
  take(count = 1): void {
    if (this.#used + count > this.capacity) throw new ArenaFullError(this.capacity);
    this.#used += count;
  }

  reset(): void {
    library().native.ggml_reset(this.context);
    this.#used = 0;
  }

  dispose(): void {
    if (this.#context === undefined) return;
    library().native.ggml_free(this.#context);
    this.#context = undefined;
  }

  /** A header bound to memory: byte `offset` of a buffer. Throws {@link GraphError} if it does not lie inside. */
  bind(buffer: NativeBuffer, offset: number, dtype: DType, dims: readonly number[], name = ""): Tensor {
    const tensor = this.header(dtype, dims, name, { buffer, offset });
    if (offset < 0 || offset + tensor.bytes > buffer.size) {
      throw new GraphError(`${tensor} at byte ${offset} does not fit in a buffer of ${buffer.size} bytes`);
    }
    library().native.ggml_backend_tensor_alloc(buffer.handle, tensor.handle, buffer.address(offset));
    return tensor;
  }

  /** A header without memory; `place`: where it is about to be bound. */
  header(dtype: DType, dims: readonly number[], name = "", place?: BufferPlace): Tensor {
    const ne = shape(dims);
    const nb = contiguousStrides(dtype, ne);
    this.take();
    const { native } = library();
    const handle = native.ggml_new_tensor_4d(this.context, DTYPES[dtype].id, ...ne);
    return new Tensor(handle, dtype, ne, nb, name, place);
  }
}

/** Thrown when a graph needs more headers than its arena has; the builder then retries with a larger one. */
export class ArenaFullError extends GraphError {
  constructor(readonly_capacity: number) {
    super(`a graph needs more than ${readonly_capacity} tensors`);
  }
}

/** What a graph is made of before it is computed. */
export class GraphCore {
  readonly device: Device;
  readonly arena: HeaderArena;
  /** Whether products may be computed outside the library; {@link Device.compute} then gets this object, not its handle. */
  readonly wide: boolean;
  /** Those that are, in the order they were built. */
  readonly products: WideProduct[] = [];
  /** Activations that were rounded for them. */
  readonly rounded = new Map<Tensor, Tensor>();
  /** Set to record operations for differentiation. */
  tape: TapeEntry[] | undefined;
  observer: BuildObserver | undefined;
  /** Products are computed in the order in which they are built, so that their weights can come one after another. */
  inOrder = false;
  readonly #graph: bigint;
  readonly #nodes: Tensor[] = [];

  constructor(device: Device, arena: HeaderArena, options: { wide?: boolean } = {}) {
    this.wide = options.wide ?? false;
    this.device = device;
    this.arena = arena;
    this.#graph = library().native.ggml_new_graph_custom(arena.context, arena.capacity, false);
  }

  get handle(): bigint {
    return this.#graph;
  }

  /** A tensor the caller fills before the graph runs. Memory comes from the graph's allocator. */
  input(dtype: DType, dims: readonly number[], name = "input"): Tensor {
    const tensor = this.arena.header(dtype, dims, name);
    library().native.ggml_set_input(tensor.handle);
    return tensor;
  }

  /** A tensor over memory that already holds (or will hold) its values. */
  bind(buffer: NativeBuffer, offset: number, dtype: DType, dims: readonly number[], name = ""): Tensor {
    return this.arena.bind(buffer, offset, dtype, dims, name);
  }

  /** Makes `tensor` a result: its memory is not reused within the graph. */
  output(tensor: Tensor): Tensor {
    library().native.ggml_set_output(tensor.handle);
    this.expand(tensor);
    return tensor;
  }

  /** Appends a tensor and all it depends on. Order of calls is order of execution. */
  expand(tensor: Tensor): void {
    library().native.ggml_build_forward_expand(this.#graph, tensor.handle);
  }

  /**
   * Runs an operation that has memory of its own now, and lays its result at element `first` of a place, which may be
   * that of one of its inputs.
   */
  put(result: Tensor, { buffer, offset }: BufferPlace, first = 0): Tensor {
    const at = offset + bytesOf(result.dtype, first);
    if (at < 0 || at + result.bytes > buffer.size) {
      throw new GraphError(`${result} at byte ${at} does not fit in a buffer of ${buffer.size}`);
    }
    library().native.ggml_backend_tensor_alloc(buffer.handle, result.handle, buffer.address(at));
    this.expand(result);
    return result;
  }

  /** Checks every operation against the device. Throws {@link GraphError} that names the first it cannot run. */
  checkSupport(): void {
    const { native } = library();
    const elsewhere = new Set(this.products.map((product) => product.node));
    for (const node of this.#nodes) {
      if (elsewhere.has(node.handle)) continue;
      if (!this.device.supports(node.handle)) {
        throw new GraphError(
          `${this.device.name} cannot run ${native.ggml_op_desc(node.handle)} giving ${node}` +
            (this.device.onHost ? "" : '; run on the CPU instead: device "cpu" (--device cpu)'),
        );
      }
    }
  }

  /** Enters the result of a native operation; called by the modules that define operations. */
  node(
    op: string,
    handle: bigint,
    dtype: DType,
    ne: Shape,
    inputs: readonly (Tensor | undefined)[],
    params: Record<string, unknown> = {},
    nb: Shape = contiguousStrides(dtype, ne),
  ): Tensor {
    const made = new Tensor(handle, dtype, ne, nb, op);
    this.#nodes.push(made);
    if (!this.tape) {
      this.observer?.unrecorded?.(inputs);
      return made;
    }
    const entry = { op, inputs, output: made, params };
    const output = this.observer?.recorded?.(entry, this.tape.length) ?? made;
    this.tape.push(output === made ? entry : { ...entry, output });
    return output;
  }
}

// Memory for the intermediate results of graphs: ggml's graph allocator, entered in an account before it grows.
import { LibraryError } from "../../base/errors.ts";
import type { BufferType } from "./buffer.ts";
import { library } from "./library.ts";

let live = 0;

/** Allocators not yet disposed in this process; for leak tests. */
export function liveGraphMemoryCount(): number {
  return live;
}

/** Called with the new size in bytes before memory grows; throws to refuse. */
export type Account = (bytes: number) => void;

export class GraphMemory {
  #handle: bigint | undefined;
  readonly #account: Account;
  #size = 0;
  #generation = 0;

  constructor(type: BufferType, account: Account) {
    const handle = library().native.ggml_gallocr_new(type.handle);
    if (!handle) throw new LibraryError("a graph allocator could not be made");
    this.#handle = handle;
    this.#account = account;
    live++;
  }

  /** Changes whenever addresses given before may be no longer valid. */
  get generation(): number {
    return this.#generation;
  }

  /** Bytes a graph would need, found without allocating. */
  measure(graph: bigint): number {
    this.#generation++;
    const sizes = new BigUint64Array(1);
    library().native.ggml_gallocr_reserve_n_size(this.#open(), graph, null, null, sizes);
    return Number(sizes[0]);
  }

  /** Makes sure that `graph` fits. */
  reserve(graph: bigint): void {
    const bytes = this.measure(graph);
    if (bytes > this.#size) {
      this.#account(bytes);
      this.#size = bytes;
    }
    if (!library().native.ggml_gallocr_reserve(this.#open(), graph)) {
      throw new LibraryError(`graph memory of ${bytes} bytes was refused by the system`);
    }
  }

  /** Gives every intermediate tensor of a graph its address. Returns whether memory was replaced by a larger piece. */
  place(graph: bigint): boolean {
    const { native } = library();
    const handle = this.#open();
    // Measuring gives memory back that is too small, so what the graph needs is entered before it is taken.
    const bytes = this.measure(graph);
    const held = Number(native.ggml_gallocr_get_buffer_size(handle, 0));
    const grows = held === 0 || held < bytes;
    if (grows) this.reserve(graph);
    if (!native.ggml_gallocr_alloc_graph(handle, graph)) {
      throw new LibraryError("graph memory was refused by the system");
    }
    return grows;
  }

  #open(): bigint {
    if (this.#handle === undefined) throw new LibraryError("graph memory was used after it was freed");
    return this.#handle;
  }

  dispose(): void {
    if (this.#handle === undefined) return;
    library().native.ggml_gallocr_free(this.#handle);
    this.#handle = undefined;
    live--;
  }
}

// Builds the graphs of one device, one at a time: in headers that grow when a graph outgrows them, over one piece of
// scratch memory. What the graphs compute is the caller's business.
import type { Device } from "../../backend/ggml/device.ts";
import { ArenaFullError, HeaderArena } from "../../backend/ggml/graph.ts";
import type { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import { Graph } from "../../backend/ggml/ops.ts";

/** Tensors that a graph may have before the headers are made anew. */
const FIRST_CAPACITY = 1024;

export class GraphBuilder {
  readonly #device: Device;
  readonly #memory: GraphMemory;
  /** Kinds of graphs that the device is known to run. */
  readonly #supported = new Set<string>();
  #arena: HeaderArena;
  /** The graph built last, and the generation of memory it was placed in. */
  #last: { graph: Graph; generation: number } | undefined;

  /** `capacity`: tensors that the headers have room for at first; they are made anew for a graph of more. */
  constructor(device: Device, memory: GraphMemory, capacity = FIRST_CAPACITY) {
    this.#arena = new HeaderArena(capacity, { graph: true });
    this.#device = device;
    this.#memory = memory;
  }

  /**
   * Builds a graph and gives its tensors memory; the one built before is gone. Graphs of a `kind` have the same operations
   * on the same types and shapes, so that the device is asked once whether it runs them. `headers`: a guess at the tensors.
   * Throws GraphError for a graph that the device cannot run, and what `build` throws.
   */
  build<T>(kind: string, build: (g: Graph) => T, headers = 0): { graph: Graph; result: T } {
    this.#last = undefined;
    for (let capacity = Math.max(headers, this.#arena.capacity); ; capacity *= 2) {
      if (capacity > this.#arena.capacity) {
        this.#arena.dispose();
        this.#arena = new HeaderArena(capacity, { graph: true });
      } else this.#arena.reset();
      try {
        const graph = new Graph(this.#device, this.#arena, { wide: true });
        const result = build(graph);
        if (!this.#supported.has(kind)) graph.checkSupport();
        this.#supported.add(kind);
        if (this.#memory.place(graph.handle)) this.#device.forgetBuffers();
        this.#last = { graph, generation: this.#memory.generation };
        return { graph, result };
      } catch (error) {
        if (!(error instanceof ArenaFullError)) throw error;
      }
    }
  }

  /** Whether a graph still has its headers and its memory, so that it can be computed again. */
  holds(graph: Graph): boolean {
    return this.#last?.graph === graph && this.#last.generation === this.#memory.generation;
  }

  dispose(): void {
    this.#last = undefined;
    this.#arena.dispose();
  }
}

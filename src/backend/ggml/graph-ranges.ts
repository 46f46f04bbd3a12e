// Runs a graph that has its memory in pieces: consecutive nodes at a time, so that something can happen between them.
import { GraphError } from "../../base/errors.ts";
import type { Device } from "./device.ts";
import { HeaderArena } from "./graph.ts";
import { library } from "./library.ts";
import type { Graph } from "./ops.ts";
import type { Tensor } from "./tensor.ts";
import type { OptionalWork } from "./threads/threads.ts";

/** Where weights are used, as indices of a graph's nodes. */
export interface NodeRange {
  readonly first: number;
  readonly last: number;
}

/** The nodes that read any of some tensors. `g` has recorded its operations (`g.tape`). Throws GraphError if none does. */
export function usesOf(g: Graph, groups: readonly (readonly Tensor[])[]): NodeRange[] {
  const order = nodeOrder(g);
  return groups.map((tensors) => {
    const wanted = new Set(tensors);
    let first = Number.POSITIVE_INFINITY;
    let last = -1;
    for (const { inputs, output } of g.tape ?? []) {
      if (!inputs.some((t) => t && wanted.has(t))) continue;
      const at = order.get(output.handle);
      if (at === undefined) continue; // built, but no part of the result
      first = Math.min(first, at);
      last = Math.max(last, at);
    }
    if (last < 0) throw new GraphError(`nothing in the graph reads ${tensors.join(", ")}`);
    return { first, last };
  });
}

/** Number of nodes of a graph. */
export function nodeCount(g: Graph): number {
  return library().native.ggml_graph_n_nodes(g.handle);
}

function nodeOrder(g: Graph): Map<bigint, number> {
  const { native } = library();
  const order = new Map<bigint, number>();
  const count = nodeCount(g);
  for (let i = 0; i < count; i++) order.set(native.ggml_graph_node(g.handle, i), i);
  return order;
}

/** Computes ranges of nodes. Holds one native graph at a time. */
export class GraphRanges {
  readonly #device: Device;
  #arena: HeaderArena | undefined;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Nodes `from` up to but not `to`, whose operands are there. Nothing happens for none. */
  async compute(g: Graph, from: number, to: number, work?: OptionalWork): Promise<void> {
    if (to <= from) return;
    const { native } = library();
    const count = to - from;
    if (!this.#arena || this.#arena.capacity < count) {
      this.#arena?.dispose();
      this.#arena = new HeaderArena(Math.max(256, count), { graph: true });
    }
    this.#arena.reset();
    const graph = native.ggml_new_graph_custom(this.#arena.context, this.#arena.capacity, false);
    const nodes = new Set<bigint>();
    for (let i = from; i < to; i++) {
      const node = native.ggml_graph_node(g.handle, i);
      native.ggml_graph_add_node(graph, node);
      nodes.add(node);
    }
    const products = g.products.filter(({ node }) => nodes.has(node));
    await this.#device.compute({ handle: graph, products }, work);
  }

  dispose(): void {
    this.#arena?.dispose();
    this.#arena = undefined;
  }
}

// Which results of a stage's forward pass are kept, so that backward computes no product of it again: found by building both
// once and looking at what the gradient rules read. Places and finds them in graphs; where their memory is, is not known here.

import type { NativeBuffer } from "../../../backend/ggml/buffer.ts";
import type { DType } from "../../../backend/ggml/dtypes.ts";
import type { BuildObserver, TapeEntry } from "../../../backend/ggml/graph.ts";
import type { Graph } from "../../../backend/ggml/ops.ts";
import type { Shape, Tensor } from "../../../backend/ggml/tensor.ts";
import { GraphError } from "../../../base/errors.ts";
import type { Stage, StageContext } from "../../../models/spec.ts";
import { recorded, type StageInput, stageForward, stageGradients, type Wanted } from "./stage-backward.ts";

/** Offsets of kept tensors are multiples of this: what devices ask of the beginning of a tensor. */
const ALIGNMENT = 256;
/** Operations without memory of their own: another look at their first input. */
const VIEWS: ReadonlySet<string> = new Set(["reshape", "view", "permute"]);
/** What a stage's time goes to. Everything else reads its inputs once, and is computed again. */
const PRODUCT = "mul_mat";

/** A result of a recorded operation that is kept. */
export interface KeptTensor {
  /** Of the operation among those recorded. */
  readonly index: number;
  readonly op: string;
  readonly dtype: DType;
  readonly ne: Shape;
  /** In the stage's memory. Bytes. */
  readonly offset: number;
}

/** What of a stage is kept for one shape of a micro-batch. */
export interface Keeping {
  readonly tensors: readonly KeptTensor[];
  /** Memory for all of them. */
  readonly bytes: number;
  /** Floating-point operations of the products that backward would compute again without them. */
  readonly flops: number;
}

/**
 * What backward of a stage needs kept to compute no product of forward again: of what the gradient rules read, all that comes
 * from a product and cannot be had from what is kept already by cheap operations (norms, activations, additions). Builds
 * both passes into `g`, which is for nothing else; nothing is computed.
 */
export function keepingOf(
  g: Graph,
  stage: Stage,
  input: StageInput,
  ctx: StageContext,
  dy: Tensor,
  wanted: Wanted,
): Keeping {
  const { tape, result } = recorded(g, () => stageForward(g, stage, input, ctx));
  const made = new Map(tape.map((entry) => [entry.output, entry]));
  const read = new Set<Tensor>();
  g.observer = {
    unrecorded: (inputs) => {
      for (const tensor of inputs) if (tensor) read.add(owner(tensor, made));
    },
  };
  try {
    stageGradients(g, tape, input, result, dy, wanted);
  } finally {
    g.observer = undefined;
  }
  return { ...chosen(tape, read, made), flops: productFlops(tape, read) };
}

/** The tensor whose memory a view looks at. */
function owner(tensor: Tensor, made: ReadonlyMap<Tensor, TapeEntry>): Tensor {
  const entry = made.get(tensor);
  return entry && VIEWS.has(entry.op) ? owner(entry.inputs[0] as Tensor, made) : tensor;
}

function chosen(
  tape: readonly TapeEntry[],
  read: ReadonlySet<Tensor>,
  made: ReadonlyMap<Tensor, TapeEntry>,
): Omit<Keeping, "flops"> {
  const tensors: KeptTensor[] = [];
  /** Results that take a product to compute. */
  const costly = new Set<Tensor>();
  let bytes = 0;
  for (const [index, { op, inputs, output }] of tape.entries()) {
    if (VIEWS.has(op)) continue;
    if (op !== PRODUCT && !inputs.some((tensor) => tensor && costly.has(owner(tensor, made)))) continue;
    if (!read.has(output)) {
      costly.add(output);
      continue;
    }
    tensors.push({ index, op, dtype: output.dtype, ne: output.ne, offset: bytes });
    bytes += Math.ceil(output.bytes / ALIGNMENT) * ALIGNMENT;
  }
  return { tensors, bytes };
}

/** Of the products that what is read depends on: two for each element that a sum goes over. */
function productFlops(tape: readonly TapeEntry[], read: ReadonlySet<Tensor>): number {
  const needed = new Set(read);
  let flops = 0;
  for (const { op, inputs, output } of tape.toReversed()) {
    if (!needed.has(output)) continue;
    for (const tensor of inputs) if (tensor) needed.add(tensor);
    if (op === PRODUCT) flops += 2 * output.elements * (inputs[0] as Tensor).ne[0];
  }
  return flops;
}

/** Memory of what is kept of a stage. */
export interface KeptMemory {
  readonly keeping: Keeping;
  readonly memory: NativeBuffer;
}

/** For forward: what is kept is computed into its memory, where nothing else of the graph comes. */
export function keepsIn(g: Graph, { keeping, memory }: KeptMemory): BuildObserver {
  return at(keeping, ({ offset }, { output }) => {
    g.put(output, { buffer: memory, offset });
    g.output(output); // kernels that join operations leave out results nobody needs
    return undefined;
  });
}

/** For backward: what was kept stands for the results, so that what they were computed from is not computed. */
export function standsIn(g: Graph, { keeping, memory }: KeptMemory): BuildObserver {
  return at(keeping, ({ op, dtype, ne, offset }) => g.bind(memory, offset, dtype, ne, `kept ${op}`));
}

/** Throws GraphError for a stage that is built otherwise than when it was decided what is kept. */
function at(
  { tensors }: Keeping,
  visit: (kept: KeptTensor, entry: TapeEntry) => Tensor | undefined,
): BuildObserver {
  const byIndex = new Map(tensors.map((tensor) => [tensor.index, tensor]));
  return {
    recorded: (entry, index) => {
      const kept = byIndex.get(index);
      if (!kept) return undefined;
      const { op, output } = entry;
      if (op !== kept.op || output.dtype !== kept.dtype || output.ne.some((n, i) => n !== kept.ne[i]))
        throw new GraphError(`${output} is not the ${kept.op} [${kept.ne.join(", ")}] that is kept`);
      return visit(kept, entry);
    },
  };
}

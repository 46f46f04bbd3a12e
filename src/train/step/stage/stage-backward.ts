// Forward and backward of one stage as graphs of their own: backward computes the stage again from its input, as far as its
// results were not kept, and asks the rules for gradients. Adds operations to a graph; allocates nothing and runs nothing.

import { type BackwardOptions, backward } from "../../../backend/ggml/gradients.ts";
import type { BuildObserver, TapeEntry } from "../../../backend/ggml/graph.ts";
import type { Graph, LowRank } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { ConfigError } from "../../../base/errors.ts";
import type { Stage, StageContext, Weights } from "../../../models/spec.ts";

/**
 * Tensors by the keys of `stage.weights` and `stage.constants`, laid out as in the checkpoint: ggml's dimensions are the
 * shape reversed, also of weights a family stores transposed. Types may be f32, f16, bf16 or (without gradients) any.
 */
export type StageParameters = Readonly<Record<string, Tensor>>;

/** What a stage is computed from. */
export interface StageInput {
  /** f32 [hidden, tokens]; the first stage has none. */
  readonly x?: Tensor | undefined;
  /** i32 [tokens], for stages with tables of tokens. */
  readonly ids?: Tensor | undefined;
  readonly parameters: StageParameters;
  /** Rows of tables that were gathered elsewhere, by key: f32 [width, tokens]. They stand for the table. */
  readonly gathered?: StageParameters | undefined;
  /** Low-rank additions to weights, by the weight's key; their matrices are `parameters`. */
  readonly adapters?: Readonly<Record<string, StageAdapter>> | undefined;
}

/** A low-rank addition to a weight of a stage: see LowRank. */
export interface StageAdapter {
  /** Keys among the stage's parameters. */
  readonly a: string;
  readonly b: string;
  readonly scale: number;
  readonly dropout?: Tensor | undefined;
}

/** Which gradients are asked for. */
export interface Wanted {
  /** Keys of parameters, or of gathered rows. */
  readonly parameters: readonly string[];
  /** That of the stage's input. */
  readonly x: boolean;
  /** Memory that gradients of parameters are added to, by key: f32, contiguous, of their shapes. Others get new memory. */
  readonly into?: Readonly<Record<string, Tensor>>;
  /** Keys of those whose memory holds nothing yet: see {@link BackwardOptions}. */
  readonly fresh?: readonly string[];
}

/** f32, each in the shape of what it is the gradient of. */
export interface StageGradients {
  readonly x: Tensor | undefined;
  readonly parameters: Readonly<Record<string, Tensor>>;
}

/** The stage's result: hidden states f32 [hidden, tokens], or logits [vocab, tokens]. */
export function stageForward(g: Graph, stage: Stage, input: StageInput, ctx: StageContext): Tensor {
  return stage.build(g, input.x, stageWeights(g, stage, input, ctx), ctx);
}

/**
 * Gradients of the stage from `dy`, the gradient of its result. What of the result no gradient needs is not computed.
 * `kept` puts what was kept of forward in the place of results.
 */
export function stageBackward(
  g: Graph,
  stage: Stage,
  input: StageInput,
  ctx: StageContext,
  dy: Tensor,
  wanted: Wanted,
  kept?: BuildObserver,
): StageGradients {
  const { tape, result } = recorded(g, () => stageForward(g, stage, input, ctx), kept);
  return stageGradients(g, tape, input, result, dy, wanted);
}

/** Builds with the tape on, and shows each operation to the observer. */
export function recorded(
  g: Graph,
  build: () => Tensor,
  observer?: BuildObserver,
): { tape: readonly TapeEntry[]; result: Tensor } {
  const before = { tape: g.tape, observer: g.observer };
  const tape: TapeEntry[] = [];
  Object.assign(g, { tape, observer });
  try {
    return { tape, result: build() };
  } finally {
    Object.assign(g, before);
  }
}

/** What a recorded stage's inputs get from `dy`, the gradient of its result. `turned`: see {@link BackwardOptions}. */
export function stageGradients(
  g: Graph,
  tape: readonly TapeEntry[],
  input: StageInput,
  result: Tensor,
  dy: Tensor,
  wanted: Wanted,
  turned?: BackwardOptions["turned"],
): StageGradients {
  const targets = new Map(wanted.parameters.map((key) => [key, held(input, key)]));
  const into = new Map(Object.entries(wanted.into ?? {}).map(([key, memory]) => [held(input, key), memory]));
  const x = wanted.x ? input.x : undefined;
  if (wanted.x && !x) throw new ConfigError("a stage without an input has no gradient of its input");
  const tensors = new Set([...targets.values(), ...(x ? [x] : [])]);
  const fresh = new Set(wanted.fresh?.map((key) => held(input, key)));
  const options: BackwardOptions = { into, fresh, ...(turned && { turned }) };
  const gradients = backward(g, tape, new Map([[result, dy]]), tensors, options);
  const parameters: Record<string, Tensor> = {};
  for (const [key, tensor] of targets) parameters[key] = gradients.get(tensor) as Tensor;
  return { x: x && gradients.get(x), parameters };
}

/** What `stage.build` takes: tables' rows of this batch, and stored transposes turned round. */
function stageWeights(g: Graph, stage: Stage, input: StageInput, ctx: StageContext): Weights {
  const weights: Record<string, Tensor> = {};
  for (const [key, { rows, transposed }] of Object.entries(stage.weights)) {
    const tensor = held(input, key);
    if (rows && !input.gathered?.[key]) {
      const ids = rows === "tokens" ? input.ids : ctx.positions;
      if (!ids) throw new ConfigError(`${stage.name}: token ids are needed for the rows of ${key}`);
      weights[key] = g.getRows(tensor, ids); // f32 [width, tokens]
    } else weights[key] = transposed ? g.cont(g.transpose(tensor)) : tensor;
  }
  for (const key of Object.keys(stage.constants ?? {})) weights[key] = held(input, key);
  if (input.adapters) {
    const entries = Object.entries(input.adapters).map(([key, { a, b, scale, dropout }]) => {
      const low: LowRank = { a: held(input, a), b: held(input, b), scale, dropout };
      return [weights[key] as Tensor, low] as const;
    });
    g.adapters = new Map(entries);
  }
  return weights;
}

function held({ parameters, gathered }: StageInput, key: string): Tensor {
  const tensor = gathered?.[key] ?? parameters[key];
  if (!tensor)
    throw new ConfigError(`there is no parameter "${key}"; there are: ${Object.keys(parameters).join(", ")}`);
  return tensor;
}

// Cross-entropy of the head's logits against token ids, with gradients, block by block: logits of all tokens never exist
// at the same time, and labels stay ids. Which tokens count is the caller's choice: those that do not are not computed.

import { argMax, countBy, setRows, zeros } from "../../../backend/ggml/gradients/ops.ts";
import { type Graph, need } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { ConfigError, GraphError } from "../../../base/errors.ts";
import type { Stage, StageContext } from "../../../models/spec.ts";
import {
  recorded,
  type StageGradients,
  type StageInput,
  type StageParameters,
  stageForward,
  stageGradients,
  type Wanted,
} from "./stage-backward.ts";

/** Bytes of the logits of a block. */
const LOGITS_BYTES = 16 * 1024 * 1024;
/** Bytes in f32 of the largest matrix that is kept turned round between blocks: turning costs as much as a few tokens. */
const KEPT_BYTES = 256 * 1024 * 1024;

/** Tokens whose logits are computed together. Depends on the model alone, never on a budget. */
export function lossBlockTokens(vocab: number): number {
  return Math.max(1, Math.min(512, Math.floor(LOGITS_BYTES / (vocab * 4))));
}

/** A loss and where it falls towards. */
export interface Loss {
  /** f32 [1]: the sum over rows of -log softmax(logits)[target]. */
  readonly sum: Tensor;
  /** f32 [vocab, rows]: the sum's gradient times the scale that was asked for. */
  readonly gradient: Tensor;
}

/**
 * Cross-entropy of logits f32 [vocab, rows] against targets i32 [rows], which must be inside the vocabulary.
 * softmax and its logarithm are taken relative to each row's largest logit, so neither overflows. The logits'
 * gradient is (softmax - one-hot) * gradScale. Operations are expanded as far as the result `sum`.
 */
export function crossEntropy(g: Graph, logits: Tensor, targets: Tensor, gradScale: number): Loss {
  const [vocab, rows] = logits.ne;
  need(
    targets.dtype === "i32" && targets.ne[0] === rows && targets.elements === rows,
    () => `cross_entropy: one target for each row of ${logits}: ${targets}`,
  );
  const starts = countBy(g, vocab, rows); // of each row, in a vector of all logits
  const element = (column: Tensor) => g.cast(g.add(g.cast(column, "f32"), starts), "i32");
  const at = (a: Tensor, index: Tensor) => g.getRows(g.reshape(a, 1, vocab * rows), index); // [1, rows]

  const target = element(targets);
  const largest = element(argMax(g, logits));
  const targetLogit = at(logits, target);
  const largestLogit = at(logits, largest);
  g.expand(targetLogit); // before softmax, which may then take the place of the logits
  g.expand(largestLogit);
  const softmax = g.softMax(logits, undefined, 1);
  // log sum exp = largest - log softmax(largest), and softmax(largest) is at least 1 / vocab
  const logSum = g.sub(largestLogit, g.unary("log", at(softmax, largest)));
  const losses = g.sub(logSum, targetLogit); // [1, rows]
  const sum = g.sumRows(g.reshape(losses, rows)); // [1]
  g.expand(sum); // before softmax is overwritten

  const lessOne = g.scale(at(softmax, target), 1, -1);
  const difference = setRows(g, g.reshape(softmax, 1, vocab * rows), lessOne, target);
  return { sum, gradient: g.scale(g.reshape(difference, vocab, rows), gradScale) };
}

/** Hidden states before the head, and what some of them should predict. */
export interface HeadInput {
  /** f32 [hidden, tokens] */
  readonly hidden: Tensor;
  /** i32 [count]: tokens that predict something, inside and none twice. */
  readonly predicting: Tensor;
  /** i32 [count]: what they predict, inside the vocabulary. */
  readonly targets: Tensor;
  readonly parameters: StageParameters;
  readonly adapters?: StageInput["adapters"];
}

export interface HeadOptions {
  /** Tokens of a block: {@link lossBlockTokens}. */
  readonly blockTokens: number;
  /** What gradients are multiplied by: 1 / predicted tokens makes them those of the mean. */
  readonly gradScale: number;
  readonly wanted: Wanted;
}

export interface HeadLoss extends StageGradients {
  /** f32 [1]: the sum over the predicting tokens, not scaled. */
  readonly sum: Tensor;
}

/**
 * The head stage with its loss, forward and backward in one graph. Blocks follow one another, each adding to the
 * parameters' gradients and writing its own columns of that of `hidden` [hidden, tokens], where tokens that predict
 * nothing get zero. The graph holds one block's logits at a time, the parameters' gradients where `wanted.into` does
 * not name their memory, and matrices of up to {@link KEPT_BYTES} turned round; larger ones are turned for every block.
 */
export function headLoss(g: Graph, stage: Stage, input: HeadInput, options: HeadOptions): HeadLoss {
  const { hidden, predicting, targets, parameters } = input;
  const { blockTokens, gradScale } = options;
  const count = predicting.elements;
  need(
    predicting.dtype === "i32" && targets.dtype === "i32" && targets.elements === count,
    () => `head: i32 of one length: ${predicting}, ${targets}`,
  );
  need(Number.isSafeInteger(blockTokens) && blockTokens > 0, () => `head: blocks of ${blockTokens} tokens`);
  const wanted = { ...options.wanted, into: gradientMemory(g, input, options.wanted) };
  const kept = Object.values(parameters).every((a) => a.elements * 4 <= KEPT_BYTES);
  const turned = kept && count > blockTokens ? new Map<Tensor, Tensor>() : undefined;
  let sum: Tensor | undefined;
  let x = wanted.x ? zeros(g, hidden.ne) : undefined;
  for (let first = 0; first < count; first += blockTokens) {
    const part = (a: Tensor) => g.view(a, [Math.min(blockTokens, count - first)], [], first * 4);
    const rows = part(predicting);
    const block = { x: g.getRows(hidden, rows), parameters, adapters: input.adapters };
    const ctx = new RowsOnly(rows.ne[0]);
    const { tape, result: logits } = recorded(g, () => stageForward(g, stage, block, ctx));
    const loss = crossEntropy(g, logits, part(targets), gradScale);
    sum = sum ? g.add(sum, loss.sum) : loss.sum;
    g.expand(sum);
    const fresh = first === 0 ? (wanted.fresh ?? []) : [];
    const gradients = stageGradients(g, tape, block, logits, loss.gradient, { ...wanted, fresh }, turned);
    Object.assign(wanted.into, gradients.parameters);
    if (x && gradients.x) {
      x = setRows(g, x, gradients.x, rows);
      g.expand(x);
    }
  }
  if (!sum) throw new GraphError("head: no token predicts anything");
  return { sum, x, parameters: wanted.into };
}

/** Memory of every wanted parameter's gradient: the caller's, or zeros. */
function gradientMemory(g: Graph, { parameters }: HeadInput, wanted: Wanted): Record<string, Tensor> {
  const memory: Record<string, Tensor> = {};
  for (const key of wanted.parameters) {
    const parameter = parameters[key];
    if (!parameter) throw new ConfigError(`the head has no parameter "${key}"`);
    memory[key] = wanted.into?.[key] ?? zeros(g, parameter.ne);
  }
  return memory;
}

/** The context of stages that look at each token by itself. */
class RowsOnly implements StageContext {
  readonly tokens: number;
  constructor(tokens: number) {
    this.tokens = tokens;
  }
  get positions(): Tensor {
    throw new GraphError("a head has no positions");
  }
  attend(): Tensor {
    throw new GraphError("a head does not attend");
  }
}

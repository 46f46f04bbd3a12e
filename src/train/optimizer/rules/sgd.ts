// Stochastic gradient descent as torch.optim.SGD computes it (dampening 0, no Nesterov): decay is added to the gradient.
// Without momentum it keeps nothing, with momentum 4 bytes per element.
import { SGD_CONSTANTS, type UpdateGraph } from "../../../backend/ggml/update-graph.ts";
import {
  type Block,
  checkDecay,
  f32,
  type GraphRule,
  type MomentFormat,
  pieces,
  type StepParams,
} from "./rule.ts";

export class SGD implements GraphRule {
  readonly name = "SGD";
  readonly moments: readonly MomentFormat[];
  readonly scratch: number;
  readonly #momentum: number;

  /** `momentum`: part of the last step's direction that is kept; 0 if absent. Throws ConfigError unless in [0, 1). */
  constructor({ momentum = 0 }: { momentum?: number } = {}) {
    checkDecay("momentum", momentum);
    this.#momentum = momentum;
    this.moments = momentum > 0 ? [f32("momentum_buffer")] : [];
    this.scratch = momentum > 0 ? 1 : 0;
  }

  constants({ lr, weight_decay }: StepParams): readonly number[] {
    // With momentum the decay is in the direction already.
    return [lr, this.#momentum > 0 ? 0 : weight_decay];
  }

  build(g: UpdateGraph, block: Block, { weight_decay }: StepParams): void {
    const [direction] = block.moments;
    for (const { first, dims } of pieces(block.count)) {
      const constants = g.at(block.constants, [SGD_CONSTANTS]);
      const weights = g.at(block.weights, dims, "f32", first);
      let gradient = g.at(block.gradient, dims, "f32", first);
      if (direction) {
        if (weight_decay > 0) {
          const decay = g.put(g.scale(weights, weight_decay), block.scratch, first);
          gradient = g.put(g.add(decay, gradient), block.scratch, first);
        }
        const kept = g.put(g.scale(g.at(direction, dims, "f32", first), this.#momentum), direction, first);
        gradient = g.put(g.add(kept, gradient), direction, first);
      }
      g.sgd(weights, gradient, constants);
    }
  }
}

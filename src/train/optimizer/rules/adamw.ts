// AdamW (Loshchilov and Hutter 2019) as torch.optim.AdamW computes it, with both moments in f32: 8 bytes per element.

import { ConfigError } from "../../../base/errors.ts";
import { shown } from "../../../base/shown.ts";
import { checkDecay, f32, type LoopConstants, type LoopRule, type StepParams } from "./rule.ts";

export interface AdamOptions {
  /** Decay of the averages of the gradient and of its square; torch's 0.9 and 0.999 if absent. */
  readonly betas?: readonly [number, number];
  /** Added to the root of the second moment; 1e-8 if absent. */
  readonly eps?: number;
}

export class AdamW implements LoopRule {
  readonly name = "AdamW";
  readonly moments = [f32("exp_avg"), f32("exp_avg_sq")];
  readonly #constants: (params: StepParams) => AdamConstants;

  /** Throws ConfigError for values out of range. */
  constructor(options: AdamOptions = {}) {
    this.#constants = adamConstants(options);
  }

  loopConstants(params: StepParams): LoopConstants {
    const [lr, beta1, beta2, eps, weight_decay, correct1, correct2] = this.#constants(params);
    const keep = 1 - Math.fround(Math.fround(lr) * Math.fround(weight_decay));
    return [params.gradScale ?? 1, beta1, 1 - beta1, beta2, 1 - beta2, keep, lr, correct1, correct2, eps];
  }
}

type AdamConstants = readonly [number, number, number, number, number, number, number];

/** The constants of ggml's AdamW kernel for a step. */
export function adamConstants({ betas = [0.9, 0.999], eps = 1e-8 }: AdamOptions) {
  if (!Array.isArray(betas) || betas.length !== 2)
    throw new ConfigError(`optimizer: betas is ${shown(betas)}, expected two numbers`);
  checkDecay("betas[0]", betas[0]);
  checkDecay("betas[1]", betas[1]);
  if (!(typeof eps === "number" && eps >= 0 && Number.isFinite(eps))) {
    throw new ConfigError(`optimizer: eps is ${shown(eps)}, it must be a finite number of at least 0`);
  }
  // The kernel averages with betas rounded to f32. Corrected with the same ones, the averages' weights add up to 1.
  const [beta1, beta2] = betas.map(Math.fround) as [number, number];
  return ({ lr, weight_decay, step }: StepParams): AdamConstants => [
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    1 / (1 - beta1 ** step),
    1 / (1 - beta2 ** step),
  ];
}

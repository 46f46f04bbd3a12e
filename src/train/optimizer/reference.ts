// Optimizer steps in doubles, one element after another, as torch's documentation writes them: what the fast ones are
// held to in tests. Not for the program.
import type { AdamOptions } from "./adamw.ts";
import type { StepParams } from "./rule.ts";

/** torch.optim.AdamW; changes its arguments. */
export function adamwReference(
  w: Float64Array,
  m: Float64Array,
  v: Float64Array,
  gradient: Float32Array,
  { betas = [0.9, 0.999], eps = 1e-8 }: AdamOptions,
  { lr, weight_decay, step, gradScale = 1 }: StepParams,
): void {
  const [beta1, beta2] = betas;
  for (let i = 0; i < w.length; i++) {
    const g = (gradient[i] as number) * gradScale;
    w[i] = (w[i] as number) * (1 - lr * weight_decay);
    m[i] = beta1 * (m[i] as number) + (1 - beta1) * g;
    v[i] = beta2 * (v[i] as number) + (1 - beta2) * g * g;
    const corrected = (m[i] as number) / (1 - beta1 ** step);
    const deviation = Math.sqrt((v[i] as number) / (1 - beta2 ** step));
    w[i] = (w[i] as number) - (lr * corrected) / (deviation + eps);
  }
}

/** torch.optim.SGD with dampening 0; changes its arguments. */
export function sgdReference(
  w: Float64Array,
  direction: Float64Array,
  gradient: Float32Array,
  momentum: number,
  { lr, weight_decay, gradScale = 1 }: StepParams,
): void {
  for (let i = 0; i < w.length; i++) {
    const g = (gradient[i] as number) * gradScale + weight_decay * (w[i] as number);
    direction[i] = momentum * (direction[i] as number) + g;
    w[i] = (w[i] as number) - lr * (direction[i] as number);
  }
}

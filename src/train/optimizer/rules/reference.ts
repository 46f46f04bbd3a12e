// Optimizer steps in doubles, one element after another, as torch's documentation writes them, and the loop of adamw.wat in
// f32, bit for bit: what the fast ones are held to in tests. Not for the program.
import type { AdamOptions } from "./adamw.ts";
import type { LoopConstants, StepParams } from "./rule.ts";

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

/** The loop of adamw.wat; changes its arguments. */
export function loopReference(
  w: Float32Array,
  gradient: Float32Array,
  m: Float32Array,
  v: Float32Array,
  constants: LoopConstants,
): void {
  const f = Math.fround;
  const [scale, beta1, rest1, beta2, rest2, keep, lr, correct1, correct2, eps] = constants.map(
    f,
  ) as unknown as LoopConstants;
  for (let i = 0; i < w.length; i++) {
    const g = f((gradient[i] as number) * scale);
    const first = f(f((m[i] as number) * beta1) + f(g * rest1));
    const second = f(f((v[i] as number) * beta2) + f(f(g * g) * rest2));
    const size = f(f(Math.sqrt(f(second * correct2))) + eps);
    w[i] = f(f((w[i] as number) * keep) - f(f(lr * f(first * correct1)) / size));
    m[i] = first;
    v[i] = second;
  }
}

/** f32 to the nearest bf16, ties to even, NaN to a quiet one, as ggml_fp32_to_bf16. */
export function bf16Reference(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (word) => {
    if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 64;
    return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  });
}

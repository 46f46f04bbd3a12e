// Activation functions by the names transformers gives them (its ACT2FN): every name, of which several mean one function.

import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { UnsupportedError } from "../../base/errors.ts";
import { listed } from "../../base/notes.ts";
import { shown } from "../../base/shown.ts";
import type { RawConfig } from "../config.ts";

/** Elementwise: x f32, contiguous, any shape -> the same. */
export type Activation = (g: Graph, x: Tensor) => Tensor;

/**
 * GELU by the tanh formula (Hendrycks and Gimpel 2016): 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
 * Composed of exact operations: ggml_gelu goes through a table of halves on the CPU, errors around 1e-3.
 */
export const geluTanh: Activation = (g, x) => {
  const c = Math.sqrt(2 / Math.PI);
  const inner = g.mul(x, g.scale(g.unary("sqr", x), c * 0.044715, c)); // sqrt(2/pi) (x + 0.044715 x^3)
  return g.mul(x, g.scale(g.unary("tanh", inner), 0.5, 0.5));
};

/** GELU by the error function. */
export const geluErf: Activation = (g, x) => g.unary("gelu_erf", x);

export const silu: Activation = (g, x) => g.unary("silu", x);
const relu: Activation = (g, x) => g.unary("relu", x);

const ACTIVATIONS: ReadonlyMap<string, Activation> = new Map([
  ["gelu_new", geluTanh],
  ["gelu_fast", geluTanh],
  ["gelu_accurate", geluTanh],
  ["gelu_pytorch_tanh", geluTanh],
  ["gelu_python_tanh", geluTanh],
  ["gelu", geluErf],
  ["gelu_python", geluErf],
  ["quick_gelu", (g, x) => g.mul(x, g.unary("sigmoid", g.scale(x, 1.702)))],
  ["silu", silu],
  ["swish", silu],
  ["relu", relu],
  ["relu2", (g, x) => g.unary("sqr", relu(g, x))],
  ["sigmoid", (g, x) => g.unary("sigmoid", x)],
  ["tanh", (g, x) => g.unary("tanh", x)],
  ["linear", (_g, x) => x],
]);

/** The activation that `key` of a config names. Throws UnsupportedError that lists the names there are. */
export function readActivation(config: RawConfig, key: string, fallback: string): Activation {
  const name = config.string(key, fallback);
  const found = ACTIVATIONS.get(name);
  if (found) return found;
  const names = listed(ACTIVATIONS.keys(), ACTIVATIONS.size);
  throw new UnsupportedError(`${config.where}: ${key} is ${shown(name)}; supported: ${names}`);
}

// Feed-forward halves and normalisation.
import type { Graph } from "../../ggml/ops.ts";
import type { Tensor } from "../../ggml/tensor.ts";
import type { Weights } from "../spec.ts";
import { linear } from "./attention.ts";

/** x / rms(x) * weight */
export function rmsNorm(g: Graph, x: Tensor, weight: Tensor, eps: number): Tensor {
  return g.mul(g.rmsNorm(x, eps), weight);
}

/** (x - mean) / std * weight + bias */
export function layerNorm(g: Graph, x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  return g.add(g.mul(g.norm(x, eps), weight), bias);
}

/** down(silu(gate x) * up x) */
export function gatedMlp(g: Graph, x: Tensor, w: Weights): Tensor {
  const gate = linear(g, w.gate!, x, w.gate_bias); // [intermediate, tokens]
  const up = linear(g, w.up!, x, w.up_bias);
  return linear(g, w.down!, g.swiglu(gate, up), w.down_bias);
}

/** down(act(up x)) */
export function plainMlp(
  g: Graph,
  x: Tensor,
  w: Weights,
  activation: (g: Graph, x: Tensor) => Tensor,
): Tensor {
  return linear(g, w.down!, activation(g, linear(g, w.up!, x, w.up_bias)), w.down_bias);
}

/**
 * GELU by the tanh formula (Hendrycks and Gimpel 2016): 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
 * Composed of exact operations: ggml_gelu goes through a table of halves on the CPU, errors around 1e-3.
 */
export function geluTanh(g: Graph, x: Tensor): Tensor {
  const c = Math.sqrt(2 / Math.PI);
  const inner = g.mul(x, g.scale(g.unary("sqr", x), c * 0.044715, c)); // sqrt(2/pi) (x + 0.044715 x^3)
  return g.mul(x, g.scale(g.unary("tanh", inner), 0.5, 0.5));
}

/** GELU by the error function. */
export function geluErf(g: Graph, x: Tensor): Tensor {
  return g.unary("gelu_erf", x);
}

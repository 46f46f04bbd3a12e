// Feed-forward halves and normalisation.
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import type { Weights } from "../spec.ts";
import { type Activation, silu } from "./activations.ts";
import { linear } from "./attention.ts";

/** x / rms(x) * weight */
export function rmsNorm(g: Graph, x: Tensor, weight: Tensor, eps: number): Tensor {
  return g.mul(g.rmsNorm(x, eps), weight);
}

/** (x - mean) / std * weight + bias */
export function layerNorm(g: Graph, x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  return g.add(g.mul(g.norm(x, eps), weight), bias);
}

/** down(act(gate x) * up x) */
export function gatedMlp(g: Graph, x: Tensor, w: Weights, activation: Activation): Tensor {
  const gate = linear(g, w.gate!, x, w.gate_bias); // [intermediate, tokens]
  const up = linear(g, w.up!, x, w.up_bias);
  const product = activation === silu ? g.swiglu(gate, up) : g.mul(activation(g, gate), up);
  return linear(g, w.down!, product, w.down_bias);
}

/** down(act(up x)) */
export function plainMlp(g: Graph, x: Tensor, w: Weights, activation: Activation): Tensor {
  return linear(g, w.down!, activation(g, linear(g, w.up!, x, w.up_bias)), w.down_bias);
}

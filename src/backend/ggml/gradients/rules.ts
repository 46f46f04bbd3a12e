// The table of derivatives: for every operation of the graph builder and each of its inputs, the operations that turn
// the gradient of the result into the gradient of that input. Everything here runs on the CPU and on Vulkan.
import type { Graph, RopeParams } from "../ops.ts";
import { sameShape, type Tensor } from "../tensor.ts";
import { productOfLeft, productOfRight } from "./matrices.ts";
import * as ops from "./ops.ts";
import type { InputRule, Rule, Step } from "./step.ts";
import { scatter, slice } from "./views.ts";

const input = (s: Step, i: number) => s.inputs[i] as Tensor;
const number = (s: Step, name: string) => s.params[name] as number;

/** Sums over what was repeated to fit the other operand. */
function reduced(g: Graph, dy: Tensor, to: Tensor): Tensor {
  return sameShape(dy, to) ? dy : ops.repeatBack(g, dy, to);
}

/** dy * f where f is the derivative at each element. */
const elementwise =
  (derivative: (g: Graph, x: Tensor, y: Tensor) => Tensor): InputRule =>
  (g, s) =>
    g.mul(s.dy, derivative(g, input(s, 0), s.output));

const pass: InputRule = (_g, s) => s.dy;
const nothing: InputRule = () => undefined;

export const RULES: Readonly<Record<string, Rule>> = {
  // y = a + b
  add: [pass, (g, s) => reduced(g, s.dy, input(s, 1))],
  // y = a - b
  sub: [pass, (g, s) => g.scale(reduced(g, s.dy, input(s, 1)), -1)],
  // y = a b
  mul: [(g, s) => g.mul(s.dy, input(s, 1)), (g, s) => reduced(g, g.mul(s.dy, input(s, 0)), input(s, 1))],
  // y = a / b: dy / b and -dy y / b
  div: [
    (g, s) => g.div(s.dy, input(s, 1)),
    (g, s) => g.scale(reduced(g, g.div(g.mul(s.dy, s.output), input(s, 1)), input(s, 1)), -1),
  ],
  scale: [(g, s) => g.scale(s.dy, number(s, "scale"))],

  sqr: [(g, s) => g.scale(g.mul(s.dy, input(s, 0)), 2)],
  sqrt: [(g, s) => g.scale(g.div(s.dy, s.output), 0.5)],
  log: [(g, s) => g.div(s.dy, input(s, 0))],
  exp: [elementwise((_g, _x, y) => y)],
  tanh: [elementwise((g, _x, y) => g.scale(g.unary("sqr", y), -1, 1))], // 1 - y^2
  sigmoid: [elementwise((g, _x, y) => g.mul(y, g.scale(y, -1, 1)))], // y (1 - y)
  silu: [(g, s) => ops.siluBack(g, s.dy, input(s, 0))],
  gelu_erf: [elementwise(geluErfDerivative)],
  relu: [elementwise((g, x) => g.unary("step", x))],
  step: [nothing],
  abs: [elementwise((g, x) => g.unary("sgn", x))],
  sgn: [nothing],
  // y = silu(gate) up
  swiglu: [
    (g, s) => ops.siluBack(g, g.mul(s.dy, input(s, 1)), input(s, 0)),
    (g, s) => g.mul(s.dy, g.unary("silu", input(s, 0))),
  ],

  rms_norm: [(g, s) => ops.rmsNormBack(g, s.dy, ops.dense(g, input(s, 0)), number(s, "eps"))],
  // norm(x) = rms_norm(x - mean), and subtracting the mean is its own transpose
  norm: [
    (g, s) => centred(g, ops.rmsNormBack(g, s.dy, centred(g, ops.dense(g, input(s, 0))), number(s, "eps"))),
  ],
  sum_rows: [(g, s) => g.repeat(s.dy, input(s, 0).ne)],
  // the mask has no gradient
  soft_max: [(g, s) => ops.softMaxBack(g, s.dy, s.output, number(s, "scale")), undefined, sinksGradient],
  get_rows: [(g, s) => ops.getRowsBack(g, s.dy, input(s, 1), input(s, 0))],

  mul_mat: [productOfLeft, productOfRight],
  rope: [(g, s) => ops.ropeBack(g, s.dy, input(s, 1), s.params.rope as RopeParams, s.inputs[2])],

  reshape: [(g, s) => g.reshape(s.dy, ...input(s, 0).ne)],
  view: [scatter],
  permute: [
    (g, s) => {
      const back = [0, 0, 0, 0] as [number, number, number, number];
      for (const [from, to] of (s.params.axes as number[]).entries()) back[to] = from;
      return g.permute(s.dy, ...back);
    },
  ],
  cont: [pass],
  // rounding counts as the identity, as everywhere in mixed-precision training
  cast: [pass],
  repeat: [(g, s) => reduced(g, s.dy, input(s, 0))],
  concat: [
    (g, s) => slice(g, s.dy, number(s, "dim"), 0, input(s, 0)),
    (g, s) => slice(g, s.dy, number(s, "dim"), input(s, 0).ne[number(s, "dim")] as number, input(s, 1)),
  ],
};

/** x - mean(x) per row */
function centred(g: Graph, x: Tensor): Tensor {
  return g.sub(x, g.scale(g.sumRows(x), 1 / x.ne[0]));
}

/**
 * Phi(x) + x phi(x), with the normal distribution Phi and its density phi. There is no operation for erf, but
 * gelu_erf(a) / a is Phi(a); taken at max(|x|, 2^-20) it is well conditioned, and Phi(-a) = 1 - Phi(a).
 */
function geluErfDerivative(g: Graph, x: Tensor): Tensor {
  const smallest = 2 ** -20;
  const a = g.scale(g.unary("relu", g.scale(g.unary("abs", x), 1, -smallest)), 1, smallest);
  const half = g.scale(g.div(g.unary("gelu_erf", a), a), 1, -0.5); // Phi(|x|) - 1/2
  const phi = g.scale(g.mul(half, g.unary("sgn", x)), 1, 0.5);
  const density = g.scale(g.unary("exp", g.scale(g.unary("sqr", x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return g.add(phi, g.mul(x, density));
}

/** Of what softmax leaves to each head's sink, 1 - sum(y): minus that times sum(dy y), over all rows of the head. */
function sinksGradient(g: Graph, { dy, output: y, inputs }: Step): Tensor {
  const sinks = inputs[2] as Tensor;
  const [, rows, heads, n] = y.ne;
  const share = g.scale(g.sumRows(y), -1, 1); // [1, rows, heads, n]
  const each = g.mul(share, g.sumRows(g.mul(dy, y)));
  const summed = g.sumRows(g.reshape(each, rows, heads, n)); // [1, heads, n]
  return g.scale(reduced(g, g.reshape(summed, heads, n), sinks), -1);
}

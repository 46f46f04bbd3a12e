// What can be asked of one row of logits without choosing a token at random: best tokens, log-probabilities, checks.
import { GraphError } from "../../base/errors.ts";

/** A token with its logit and its natural-log probability under the whole row. */
export interface TokenScore {
  id: number;
  logit: number;
  logprob: number;
}

/**
 * Index of the largest logit, the lowest index on ties. -Infinity is a forbidden token and never chosen.
 * @param logits [vocab]
 * @throws GraphError if a logit is NaN or +Infinity, or none is finite
 */
export function argmax(logits: Float32Array): number {
  let best = -1;
  let max = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) {
    const value = logits[i]!;
    if (value > max) {
      max = value;
      best = i;
    } else if (Number.isNaN(value)) throw brokenLogits(logits, i);
  }
  if (best < 0 || max === Number.POSITIVE_INFINITY) throw brokenLogits(logits, best);
  return best;
}

function brokenLogits(logits: Float32Array, at: number): GraphError {
  if (logits.length === 0) return new GraphError("logits are empty; a row has one number for each token");
  const found =
    at < 0 ? "are all -Infinity" : `contain ${logits[at]} (first at token ${at} of ${logits.length})`;
  return new GraphError(
    `logits ${found}; the weights are damaged or a half-precision value overflowed: check the checkpoint, ` +
      'or try dtype "float32" and kv_dtype "float32"',
  );
}

/**
 * Natural logarithm of softmax, summed in double precision.
 * @param logits [vocab]
 * @param out [vocab], may be `logits` itself; by default a new array
 * @throws GraphError as {@link argmax}
 */
export function logSoftmax(logits: Float32Array, out = new Float32Array(logits.length)): Float32Array {
  const shift = logSumExp(logits);
  for (let i = 0; i < logits.length; i++) out[i] = logits[i]! - shift;
  return out;
}

/** log(sum(exp(logits))), stable for large values. */
function logSumExp(logits: Float32Array): number {
  const max = logits[argmax(logits)]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max);
  return max + Math.log(sum);
}

/**
 * The k best tokens, best first, lower ids first on ties; fewer if fewer are possible.
 * @param logits [vocab]
 * @param k integer from 0
 * @throws GraphError as {@link argmax}, or if k is not such an integer
 */
export function topTokens(logits: Float32Array, k: number): TokenScore[] {
  if (!Number.isInteger(k) || k < 0) throw new GraphError(`topTokens takes a whole number from 0, got ${k}`);
  const shift = logSumExp(logits);
  const count = Math.min(k, logits.length);
  if (count === 0) return [];
  const threshold = kthLargest(logits, count);
  const above: TokenScore[] = [];
  const ties: TokenScore[] = [];
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (logit < threshold || logit === Number.NEGATIVE_INFINITY) continue;
    if (logit > threshold) above.push({ id, logit, logprob: logit - shift });
    else if (ties.length < count) ties.push({ id, logit, logprob: logit - shift });
  }
  above.sort((a, b) => b.logit - a.logit || a.id - b.id);
  return above.concat(ties).slice(0, count);
}

/**
 * The k-th largest value (k = 1 is the maximum), by a min-heap of the k best so far: one comparison for most values.
 * @param values no NaN among them
 * @param k integer from 1 to values.length
 * @param heap scratch of at least k elements
 */
export function kthLargest(values: Float32Array, k: number, heap = new Float32Array(k)): number {
  let size = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (size < k) {
      siftUp(heap, size++, value);
    } else if (value > heap[0]!) {
      siftDown(heap, k, value);
    }
  }
  return heap[0]!;
}

/** Places a value into the heap whose last free position is `at`. */
function siftUp(heap: Float32Array, at: number, value: number): void {
  let child = at;
  while (child > 0) {
    const parent = (child - 1) >> 1;
    if (heap[parent]! <= value) break;
    heap[child] = heap[parent]!;
    child = parent;
  }
  heap[child] = value;
}

/** Replaces the smallest value of the heap. */
function siftDown(heap: Float32Array, size: number, value: number): void {
  let parent = 0;
  for (;;) {
    let child = 2 * parent + 1;
    if (child >= size) break;
    if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= value) break;
    heap[parent] = heap[child]!;
    parent = child;
  }
  heap[parent] = value;
}

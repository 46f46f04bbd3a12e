// The tokens that may still be drawn, and how probable each is: the filters of drawing, in transformers' meanings. Each works
// on what the ones before it left. Checks nothing.
import { kthLargest } from "./logits.ts";

/** Tokens that top_h looks at. */
export const TOP_H_TOKENS = 100;

export class Candidates {
  /** The tokens still possible [vocab], and their weights: probabilities up to a common factor, 1 for the best. */
  #ids = new Uint32Array(0);
  #weights = new Float64Array(0);
  #sorted = new Float64Array(0);
  #heap = new Float32Array(0);
  #count = 0;

  /** All tokens that are not forbidden; `max` is the largest score. With top_k: those among the k best, and ties. */
  fill(scores: Float32Array, max: number, temperature: number, top_k: number): void {
    const vocab = scores.length;
    if (this.#ids.length !== vocab) {
      this.#ids = new Uint32Array(vocab);
      this.#weights = new Float64Array(vocab);
      this.#sorted = new Float64Array(vocab);
    }
    let threshold = Number.NEGATIVE_INFINITY;
    if (top_k > 0 && top_k < vocab) {
      if (this.#heap.length < top_k) this.#heap = new Float32Array(top_k);
      threshold = kthLargest(scores, top_k, this.#heap);
    }
    let count = 0;
    for (let id = 0; id < vocab; id++) {
      const score = scores[id] as number;
      if (score >= threshold && score !== Number.NEGATIVE_INFINITY) this.#ids[count++] = id;
    }
    for (let i = 0; i < count; i++)
      this.#weights[i] = Math.exp(((scores[this.#ids[i] as number] as number) - max) / temperature);
    this.#count = count;
  }

  /** The best tokens, as long as the entropy they add up to is at most this share of the whole of the 100 best. */
  topH(share: number): void {
    const order = this.#order((weight) => -weight).slice(0, TOP_H_TOKENS);
    const total = order.reduce((sum, i) => sum + (this.#weights[i] as number), 0);
    const terms = order.map((i) => information((this.#weights[i] as number) / total));
    const limit = share * terms.reduce((a, b) => a + b, 0);
    let kept = 0;
    for (let sum = 0; kept < terms.length; kept++) {
      sum += terms[kept] as number;
      if (kept > 0 && !(sum <= limit)) break;
    }
    this.#keepThese(order.slice(0, kept));
  }

  /** The k best of what is left, and all that tie with the last of them. */
  topK(k: number): void {
    if (k === 0 || k >= this.#count) return;
    const sorted = this.#sort(this.#count);
    this.#keep(sorted[this.#count - k] as number);
  }

  /** The smallest set of best tokens whose share reaches `share`, the lowest ids where tokens tie. */
  topP(share: number): void {
    if (share === 1) return;
    const count = this.#count;
    const total = this.#total();
    // Tokens below an equal share of what may be left out can never be needed, so most are never sorted.
    this.#keep(((1 - share) * total) / count);
    const remaining = this.#count;
    const sorted = this.#sort(remaining);
    let kept = 0;
    let sum = 0;
    do sum += sorted[remaining - 1 - kept++] as number;
    while (kept < remaining && sum < share * total);
    const last = sorted[remaining - kept] as number;
    let ties = 0;
    for (let i = remaining - kept; i < remaining && sorted[i] === last; i++) ties++;
    this.#keep(last, ties);
  }

  /** Tokens at least this times as probable as the best. */
  minP(share: number): void {
    if (share > 0) this.#keep(share);
  }

  /** The tokens whose surprise is nearest to the expected one, until they have this share (arXiv:2202.00666). */
  typicalP(share: number): void {
    if (share >= 1) return;
    const total = this.#total();
    const entropy = this.#entropy(total);
    const distance = (weight: number) => Math.abs(-Math.log(weight / total) - entropy);
    const order = this.#order(distance);
    let last = 0;
    for (let sum = 0; last < order.length; last++) {
      sum += (this.#weights[order[last] as number] as number) / total;
      if (!(sum < share)) break;
    }
    const limit = distance(this.#weights[order[Math.min(last, order.length - 1)] as number] as number);
    this.#keepThese(order.filter((i, at) => at === 0 || distance(this.#weights[i] as number) <= limit));
  }

  /** Tokens at least this probable, and the best. */
  epsilon(cutoff: number): void {
    if (cutoff > 0 && cutoff < 1) this.#keep(Math.min(this.#largest(), cutoff * this.#total()));
  }

  /** The same with a cutoff that falls where the odds are flat (arXiv:2210.15191). */
  eta(cutoff: number): void {
    if (!(cutoff > 0 && cutoff < 1)) return;
    const total = this.#total();
    const eta = Math.min(cutoff, Math.sqrt(cutoff) * Math.exp(-this.#entropy(total)));
    this.#keep(Math.min(this.#largest(), eta * total));
  }

  /** One token; `uniform` is from 0 to 1. */
  draw(uniform: number): number {
    let left = uniform * this.#total();
    let chosen = 0;
    for (let i = 0; i < this.#count && left >= 0; i++) {
      // Skipping weights that underflowed to zero: rounding may leave a crumb for after the last token.
      if (this.#weights[i] === 0) continue;
      left -= this.#weights[i] as number;
      chosen = i;
    }
    return this.#ids[chosen] as number;
  }

  /** Tokens that are left, and their probabilities. */
  distribution(): { id: number; p: number }[] {
    const total = this.#total();
    return Array.from({ length: this.#count }, (_, i) => ({
      id: this.#ids[i] as number,
      p: (this.#weights[i] as number) / total,
    }));
  }

  /** Keeps tokens above a weight, and of those equal to it the first `ties`. */
  #keep(threshold: number, ties = Number.POSITIVE_INFINITY): void {
    let kept = 0;
    let left = ties;
    for (let i = 0; i < this.#count; i++) {
      const weight = this.#weights[i] as number;
      if (weight < threshold || (weight === threshold && left-- <= 0)) continue;
      this.#ids[kept] = this.#ids[i] as number;
      this.#weights[kept++] = weight;
    }
    this.#count = kept;
  }

  /** Keeps the tokens at these places, in the order of their ids. */
  #keepThese(places: number[]): void {
    places.sort((a, b) => a - b);
    for (const [to, from] of places.entries()) {
      this.#ids[to] = this.#ids[from] as number;
      this.#weights[to] = this.#weights[from] as number;
    }
    this.#count = places.length;
  }

  /** Places of the tokens, the smallest measure of their weights first, lower ids first where they tie. */
  #order(measure: (weight: number) => number): number[] {
    const measures = Array.from({ length: this.#count }, (_, i) => measure(this.#weights[i] as number));
    return measures
      .map((_, i) => i)
      .sort((a, b) => (measures[a] as number) - (measures[b] as number) || a - b);
  }

  /** The first `count` weights, the smallest first. */
  #sort(count: number): Float64Array {
    const sorted = this.#sorted.subarray(0, count);
    sorted.set(this.#weights.subarray(0, count));
    return sorted.sort();
  }

  #total(): number {
    let total = 0;
    for (let i = 0; i < this.#count; i++) total += this.#weights[i] as number;
    return total;
  }

  /** The best weight that is left: below 1 where the best token was not typical. */
  #largest(): number {
    let largest = 0;
    for (let i = 0; i < this.#count; i++) largest = Math.max(largest, this.#weights[i] as number);
    return largest;
  }

  #entropy(total: number): number {
    let entropy = 0;
    for (let i = 0; i < this.#count; i++) entropy += information((this.#weights[i] as number) / total);
    return entropy;
  }
}

/** What a token of this probability adds to the entropy. */
function information(p: number): number {
  return p === 0 ? 0 : -p * Math.log(p);
}

// Reproducible random values at the speed of the disk: one table per scale, read round and round from a place that
// depends on the tensor's name and the seed. Good for shapes, speed and arithmetic; not for statistics.
import type { FloatDType } from "../../backend/ggml/dtypes.ts";
import { DTYPES } from "../../backend/ggml/dtypes.ts";
import type { Init } from "./families.ts";
import { encodeFloats } from "./floats.ts";

/** Values in a table. Prime, so that no two rows of a matrix begin at the same place before it has as many rows. */
const TABLE = 1_048_583;

/** Streams values of a dtype. The same dtype, seed, name and init give the same bytes, whatever is asked for in between. */
export class ValueSource {
  readonly #dtype: FloatDType;
  readonly #seed: number;
  readonly #tables = new Map<string, Uint8Array>();

  constructor(dtype: FloatDType, seed: number) {
    this.#dtype = dtype;
    this.#seed = seed;
  }

  /** Chunks that hold `elements` values in all. They are views of a table: not to be written to. */
  async *chunks(name: string, elements: number, init: Init): AsyncGenerator<Uint8Array> {
    const table = this.#table(init);
    const width = DTYPES[this.#dtype].bytes;
    let left = elements;
    let from = hash(name, this.#seed) % TABLE;
    while (left > 0) {
      const count = Math.min(left, TABLE - from);
      yield table.subarray(from * width, (from + count) * width);
      left -= count;
      from = 0;
    }
  }

  #table(init: Init): Uint8Array {
    const { mean, deviation } = distribution(init);
    const key = `${mean} ${deviation}`;
    const known = this.#tables.get(key);
    if (known) return known;
    const random = mulberry32(this.#seed);
    const values = new Float32Array(TABLE);
    // Uniform on an interval of width 2 * sqrt(3) has variance 1.
    const scale = 2 * Math.sqrt(3) * deviation;
    for (let i = 0; i < TABLE; i++) values[i] = mean + (random() - 0.5) * scale;
    const table = encodeFloats(values, this.#dtype);
    this.#tables.set(key, table);
    return table;
  }
}

/** Weights keep the variance of what flows through them; norms and biases stay near the identity. */
function distribution(init: Init): { mean: number; deviation: number } {
  switch (init.kind) {
    case "weight":
      return { mean: 0, deviation: 1 / Math.sqrt(init.fanIn) };
    case "norm":
      return { mean: 1, deviation: 0.05 };
    case "bias":
      return { mean: 0, deviation: 0.02 };
    default:
      return init satisfies never;
  }
}

/** FNV-1a of the name, begun with the seed, mixed at the end. 32 bits, unsigned. */
function hash(name: string, seed: number): number {
  let h = (0x811c9dc5 ^ seed) | 0;
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}

/** Tommy Ettinger's mulberry32: uniform on [0, 1). */
function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

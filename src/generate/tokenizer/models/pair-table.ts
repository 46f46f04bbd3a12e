// A hash table from pairs of whole numbers to two whole numbers. Grows, never shrinks; -1 stands for "not there".

export class PairTable {
  #slots: Int32Array;
  #mask: number;
  #size = 0;

  /** @param expected how many pairs to make room for */
  constructor(expected: number) {
    let slots = 16;
    while (slots < expected * 2) slots *= 2;
    this.#slots = new Int32Array(slots * 4).fill(-1);
    this.#mask = slots - 1;
  }

  get size(): number {
    return this.#size;
  }

  /** Where the pair's first value is, for {@link first} and {@link second}; -1 if the pair is not there. */
  find(a: number, b: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    let slot = hash(a, b) & mask;
    for (;;) {
      const at = slot * 4;
      const key = slots[at]!;
      if (key === a && slots[at + 1] === b) return at + 2;
      if (key === -1) return -1;
      slot = (slot + 1) & mask;
    }
  }

  first(at: number): number {
    return this.#slots[at]!;
  }

  second(at: number): number {
    return this.#slots[at + 1]!;
  }

  /** Enters a pair, in the place of what it had. */
  set(a: number, b: number, first: number, second: number): void {
    if (this.#size * 2 > this.#mask) this.#grow();
    const slots = this.#slots;
    let slot = hash(a, b) & this.#mask;
    while (slots[slot * 4] !== -1 && !(slots[slot * 4] === a && slots[slot * 4 + 1] === b))
      slot = (slot + 1) & this.#mask;
    if (slots[slot * 4] === -1) this.#size++;
    slots[slot * 4] = a;
    slots[slot * 4 + 1] = b;
    slots[slot * 4 + 2] = first;
    slots[slot * 4 + 3] = second;
  }

  #grow(): void {
    const old = this.#slots;
    this.#slots = new Int32Array(old.length * 2).fill(-1);
    this.#mask = this.#mask * 2 + 1;
    this.#size = 0;
    for (let i = 0; i < old.length; i += 4)
      if (old[i] !== -1) this.set(old[i]!, old[i + 1]!, old[i + 2]!, old[i + 3]!);
  }
}

function hash(a: number, b: number): number {
  let h = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b);
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}

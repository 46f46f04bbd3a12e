// The texts of a tokenizer's tokens by id, in two buffers that cost nothing to hand to another thread.

export interface TokenTableData {
  /** The tokens' UTF-8, one after another. */
  readonly bytes: Uint8Array;
  /** Where each begins, and where the last ends. */
  readonly offsets: Uint32Array;
  /** Their ids in rising order; undefined if these are 0, 1, 2, ... */
  readonly ids: Int32Array | undefined;
}

/** @param tokens texts by id, in any order */
export function packTokens(tokens: ReadonlyMap<number, string>): TokenTableData {
  const ids = Int32Array.from(tokens.keys()).sort();
  const offsets = new Uint32Array(ids.length + 1);
  const parts: string[] = [];
  let end = 0;
  for (const [i, id] of ids.entries()) {
    const text = tokens.get(id)!;
    parts.push(text);
    end += Buffer.byteLength(text);
    offsets[i + 1] = end;
  }
  const isDense = ids.length === 0 || ids.at(-1) === ids.length - 1;
  const bytes = new Uint8Array(end);
  bytes.set(Buffer.from(parts.join(""), "utf8"));
  return { bytes, offsets, ids: isDense ? undefined : ids };
}

export class TokenTable {
  readonly #data: TokenTableData;
  readonly #buffer: Buffer;
  #byText: Map<string, number> | undefined;

  constructor(data: TokenTableData) {
    this.#data = data;
    this.#buffer = Buffer.from(data.bytes.buffer, data.bytes.byteOffset, data.bytes.byteLength);
  }

  /** Number of tokens. */
  get size(): number {
    return this.#data.offsets.length - 1;
  }

  /** Bytes that the table takes. */
  get bytes(): number {
    const { bytes, offsets, ids } = this.#data;
    return bytes.byteLength + offsets.byteLength + (ids?.byteLength ?? 0);
  }

  textOf(id: number): string | undefined {
    const i = this.#data.ids === undefined ? id : find(this.#data.ids, id);
    if (!(i >= 0 && i < this.size) || !Number.isInteger(i)) return undefined;
    return this.#buffer.toString("utf8", this.#data.offsets[i], this.#data.offsets[i + 1]);
  }

  /** The first call takes a moment: texts are indexed only where they are asked for. */
  idOf(text: string): number | undefined {
    if (this.#byText === undefined) {
      this.#byText = new Map();
      for (let i = this.size - 1; i >= 0; i--) {
        const id = this.#data.ids?.[i] ?? i;
        this.#byText.set(this.textOf(id)!, id);
      }
    }
    return this.#byText.get(text);
  }
}

/** Where a number is in a rising list; -1 if it is not. */
function find(list: Int32Array, value: number): number {
  let low = 0;
  let high = list.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (list[middle] === value) return middle;
    if (list[middle]! < value) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

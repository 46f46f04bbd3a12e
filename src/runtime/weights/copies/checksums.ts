// Checksums of the copies in an offload folder: CRC-32 of every block of every tensor, kept in a tensor of their own at the
// end of the file, and compared when a tensor is first read in a process. CRC-32 tells damage, not forgery; of what Node
// has it is the fastest (3.5 GB/s on one core, SHA-256 1.6).
import { rmSync, statSync } from "node:fs";
import { crc32 } from "node:zlib";
import { DTYPES } from "../../../backend/ggml/dtypes.ts";
import { CheckpointError } from "../../../base/errors.ts";
import { readExactly, withFile } from "../../../formats/files/files.ts";
import type { TensorSource } from "../../../formats/index.ts";
import type { Checkpoint, TensorEntry } from "../../../formats/types.ts";

/** Sorts behind every other name of its type: written when all the others are. */
const NAME = "~spillway.checksums";
/** Bytes looked at before other work gets its turn. */
const TURN = 4 * 2 ** 20;

/** A tensor of a copy and how it is divided: whole blocks from its start, the last one shorter. */
interface Divided {
  readonly name: string;
  readonly bytes: number;
  readonly block: number;
}

/** Tensors as they are written to a copy, with one more that holds their checksums. `blockBytes`: of a tensor. */
export function withChecksums(
  tensors: readonly TensorSource[],
  blockBytes: (tensor: TensorSource) => number,
): TensorSource[] {
  const divided = tensors.map((tensor): Divided => {
    const { name, shape, dtype } = tensor;
    const bytes = shape.reduce((a, b) => a * b, 1) * DTYPES[dtype].bytes;
    return { name, bytes, block: blockBytes(tensor) };
  });
  const { starts, count } = startsOf(divided);
  const sums = new Uint32Array(count + 1);
  const summed = tensors.map((tensor, i): TensorSource => {
    const { bytes, block } = divided[i] as Divided;
    const start = starts.get(tensor.name) as number;
    const running = new Running(block, bytes, (sum, n) => {
      sums[start + n] = sum;
    });
    return { ...tensor, data: passing(tensor.data, running) };
  });
  const table = async function* () {
    sums[count] = crc32(new Uint8Array(sums.buffer, 0, count * 4));
    yield new Uint8Array(sums.buffer);
  };
  return [...summed, { name: NAME, dtype: "i8", shape: [sums.byteLength], data: table() }];
}

async function* passing(data: TensorSource["data"], running: Running): AsyncGenerator<Uint8Array> {
  if (data === "zeros") throw new TypeError("a copy has no holes");
  for await (const chunk of data instanceof Uint8Array ? [data] : data) {
    running.add(chunk);
    yield chunk;
  }
}

/** Where the checksums of each tensor begin: by name, whatever the order in the file. */
function startsOf(tensors: readonly Divided[]): { starts: Map<string, number>; count: number } {
  const starts = new Map<string, number>();
  let count = 0;
  const named = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  for (const name of [...named.keys()].sort()) {
    const { bytes, block } = named.get(name) as Divided;
    starts.set(name, count);
    count += Math.ceil(bytes / block);
  }
  return { starts, count };
}

/** Checksums of blocks of bytes that come one after another in pieces of any size. */
class Running {
  readonly #block: number;
  readonly #bytes: number;
  readonly #done: (sum: number, block: number) => void;
  #sum = 0;
  #at = 0;

  constructor(block: number, bytes: number, done: (sum: number, block: number) => void) {
    this.#block = block;
    this.#bytes = bytes;
    this.#done = done;
  }

  add(chunk: Uint8Array): void {
    for (let from = 0; from < chunk.length; ) {
      const inBlock = this.#at % this.#block;
      const length = Math.min(chunk.length - from, this.#block - inBlock);
      this.#sum = crc32(chunk.subarray(from, from + length), this.#sum);
      from += length;
      this.#at += length;
      if (this.#at % this.#block !== 0 && this.#at !== this.#bytes) continue;
      this.#done(this.#sum, Math.ceil(this.#at / this.#block) - 1);
      this.#sum = 0;
    }
  }
}

/** The bytes of a copy are not those that were written. The file has been removed: the next load makes it anew. */
export class DamagedCopyError extends CheckpointError {
  constructor(file: string, tensor: string) {
    const problem =
      "this copy of weights in the offload folder is damaged (its checksum differs); it was removed and is made anew " +
      "when the model is opened next; if it happens again, look at the disk";
    super(problem, { file, tensor });
  }
}

/** What lies in a file from some byte on. */
interface FileBytes {
  readonly offset: number;
}

/** The checksums of one copy. */
export class CopyChecksums {
  readonly path: string;
  readonly #inode: string;
  readonly #sums: Uint32Array;
  /** By the offset of a tensor in the file. */
  readonly #tensors = new Map<number, Divided & { readonly start: number; verified: boolean }>();

  private constructor(path: string, inode: string, sums: Uint32Array) {
    this.path = path;
    this.#inode = inode;
    this.#sums = sums;
  }

  /**
   * Reads the checksums of a copy, undefined where there are none or they are damaged themselves. `blockBytes` as they
   * were written with.
   */
  static async read(
    copy: Checkpoint,
    blockBytes: (entry: TensorEntry) => number,
  ): Promise<CopyChecksums | undefined> {
    const table = copy.tensors.get(NAME);
    const path = copy.files[0]?.path;
    if (!table || path === undefined || table.bytes % 4 !== 0) return undefined;
    const entries = [...copy.tensors.values()].filter((entry) => entry !== table);
    const divided = entries.map((entry) => ({
      name: entry.name,
      bytes: entry.bytes,
      block: blockBytes(entry),
      offset: entry.offset,
    }));
    const { starts, count } = startsOf(divided);
    if (table.bytes !== (count + 1) * 4) return undefined;
    const sums = new Uint32Array(count + 1);
    const inode = await withFile(path, async (handle, { dev, ino }) => {
      await readExactly(handle, new Uint8Array(sums.buffer), table.offset, path);
      return `${dev}:${ino}`;
    });
    if (crc32(new Uint8Array(sums.buffer, 0, count * 4)) !== sums[count]) return undefined;
    const checksums = new CopyChecksums(path, inode, sums);
    for (const one of divided) {
      const start = starts.get(one.name) as number;
      checksums.#tensors.set(one.offset, { ...one, start, verified: false });
    }
    return checksums;
  }

  /** Compares a whole tensor, the first time it is given. Throws {@link DamagedCopyError}. */
  async verify(entry: FileBytes, bytes: Uint8Array): Promise<void> {
    const tensor = this.#tensors.get(entry.offset);
    if (!tensor || tensor.verified) return;
    const turn = Math.max(1, Math.floor(TURN / tensor.block)) * tensor.block;
    for (let from = 0; from < bytes.length; from += turn) {
      if (from > 0) await new Promise((resolve) => setImmediate(resolve));
      this.#compare(tensor, from, bytes.subarray(from, from + turn));
    }
    tensor.verified = true;
  }

  /** Compares whole blocks from byte `start` of a tensor on, each time. Throws {@link DamagedCopyError}. */
  verifyBlocks(entry: FileBytes, start: number, bytes: Uint8Array): void {
    const tensor = this.#tensors.get(entry.offset);
    if (tensor) this.#compare(tensor, start, bytes);
  }

  /** For the bytes of a whole tensor that come in pieces of any size: to be called with each of them in turn. */
  running(entry: FileBytes): (piece: Uint8Array) => void {
    const tensor = this.#tensors.get(entry.offset);
    if (!tensor) return () => {};
    const running = new Running(tensor.block, tensor.bytes, (sum, block) => this.#expect(tensor, block, sum));
    return (piece) => running.add(piece);
  }

  #compare(tensor: Divided & { readonly start: number }, from: number, bytes: Uint8Array): void {
    const { block } = tensor;
    for (let at = 0; at < bytes.length; at += block)
      this.#expect(tensor, (from + at) / block, crc32(bytes.subarray(at, at + block)));
  }

  #expect({ name, start }: Divided & { readonly start: number }, block: number, sum: number): void {
    if (this.#sums[start + block] === sum) return;
    this.#remove();
    throw new DamagedCopyError(this.path, name);
  }

  /** Removes the file, if it still is the one that was read. Does not throw. */
  #remove(): void {
    try {
      const { dev, ino } = statSync(this.path);
      if (`${dev}:${ino}` === this.#inode) rmSync(this.path);
    } catch {
      // then the next load says so again
    }
  }
}

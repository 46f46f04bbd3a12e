// Memory that the machine has handed out already, held until it is needed. A virtual machine may get its memory from the
// host page by page, slower than a disk reads; then loading would measure the host. Pages given back are the next used.
// What other processes gave back before goes to the host in the seconds after, which takes the machine time: that is waited
// for, with the memory held.
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";

const CHUNK = 64 * 2 ** 20;
/** Until the machine has given back to its host most of what was free. Milliseconds. */
const REST = 8000;
/** Given back ahead of need. Bytes. */
const AHEAD = 256 * 2 ** 20;
const [READ_WRITE, PRIVATE_ANONYMOUS, MADV_HUGEPAGE] = [3, 0x22, 14];

const libc = koffi.load("libc.so.6");
const mmap = libc.func("void *mmap(void *, size_t, int, int, int, long)");
const munmap = libc.func("int munmap(void *, size_t)");
const madvise = libc.func("int madvise(void *, size_t, int)");
const memset = libc.func("void *memset(void *, int, size_t)");

export class WarmMemory {
  /** @type {bigint[]} */
  #chunks = [];
  #released = 0;

  /** Holds so much once the machine has come to rest. @param {number} bytes 0: nothing happens */
  static async take(bytes) {
    const memory = new WarmMemory(bytes);
    if (bytes > 0) await sleep(REST);
    memory.needed(0);
    return memory;
  }

  /** To be made with {@link take}. @param {number} bytes */
  constructor(bytes) {
    while (this.#chunks.length * CHUNK < bytes) {
      const chunk = mmap(null, CHUNK, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
      if (BigInt.asIntN(64, chunk) === -1n) throw new Error(`no ${CHUNK} bytes of memory`);
      madvise(chunk, CHUNK, MADV_HUGEPAGE);
      memset(chunk, 1, CHUNK);
      this.#chunks.push(chunk);
    }
  }

  /** So much memory has been taken by others: gives as much back, and a little more. @param {number} bytes in all */
  needed(bytes) {
    while (this.#released < bytes + AHEAD && this.#chunks.length > 0) {
      munmap(this.#chunks.pop(), CHUNK);
      this.#released += CHUNK;
    }
  }

  /** Gives all of it back. */
  release() {
    this.needed(Number.POSITIVE_INFINITY);
  }
}

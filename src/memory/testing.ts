// Page-aligned native memory and scratch files for tests. Not for the program, whose native memory comes from ggml/.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import koffi from "koffi";
import { ALIGNMENT } from "./io/direct-io.ts";

/** Native memory at a multiple of 4096. `buffer` must not be used after `free`; `free` may be called twice. */
export interface AlignedMemory {
  readonly buffer: ArrayBuffer;
  free(): void;
}

interface Allocator {
  allocate(bytes: number): bigint;
  free(address: bigint): void;
}

let allocator: Allocator | undefined;

/** Allocates `bytes` of native memory, not zeroed. */
export function alignedMemory(bytes: number): AlignedMemory {
  allocator ??= process.platform === "win32" ? windowsAllocator() : posixAllocator();
  const { free } = allocator;
  const address = allocator.allocate(Math.max(bytes, 1));
  let live = true;
  return {
    buffer: koffi.view(address, bytes),
    free: () => {
      if (live) free(address);
      live = false;
    },
  };
}

function posixAllocator(): Allocator {
  const libc = koffi.load(null);
  const memalign = libc.func("int posix_memalign(_Out_ void **out, size_t alignment, size_t size)");
  const free = libc.func("void free(void *ptr)");
  return {
    allocate: (bytes) => {
      const out: [unknown] = [null];
      const code: unknown = memalign(out, ALIGNMENT, bytes);
      if (code !== 0) throw new Error(`posix_memalign of ${bytes} bytes failed with ${String(code)}`);
      return koffi.address(out[0]);
    },
    free: (address) => free(address),
  };
}

function windowsAllocator(): Allocator {
  const runtime = koffi.load("ucrtbase.dll");
  const alignedMalloc = runtime.func("void *_aligned_malloc(size_t size, size_t alignment)");
  const free = runtime.func("void _aligned_free(void *ptr)");
  return {
    allocate: (bytes) => koffi.address(alignedMalloc(bytes, ALIGNMENT)),
    free: (address) => free(address),
  };
}

/** A folder that `remove` deletes with what is in it. */
export async function scratchFolder(): Promise<{ folder: string; remove(): Promise<void> }> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "spillway-test-"));
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** Byte `i` of every file of {@link writePattern}: no two 4096-byte blocks of a small file are alike. */
export function patternByte(i: number): number {
  return (i ^ (i >>> 8) ^ ((i >>> 16) * 31)) & 0xff;
}

/** Writes a file of `bytes` pattern bytes and returns its path. */
export async function writePattern(folder: string, name: string, bytes: number): Promise<string> {
  const data = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) data[i] = patternByte(i);
  const file = path.join(folder, name);
  await writeFile(file, data);
  return file;
}

/** What the system answers, as Node tells it: to be thrown by the hooks that inject errors. */
export function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: injected`), { code });
}

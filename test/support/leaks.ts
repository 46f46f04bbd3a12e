// What this process holds outside JavaScript's heap, so that tests can say: afterwards it was what it was before.
import { readdirSync } from "node:fs";
import { expect } from "vitest";
import { liveBufferCount } from "../../src/backend/ggml/buffer.ts";
import { liveGraphMemoryCount } from "../../src/backend/ggml/graph-memory.ts";
import { sandbox } from "../../src/generate/sandbox/sandbox.ts";
import { openFileCount } from "../../src/memory/io/direct-io.ts";

export interface Holdings {
  readonly buffers: number;
  readonly graphMemories: number;
  readonly weightFiles: number;
  /** Open descriptors of any kind; undefined where the platform does not list them. */
  readonly descriptors: number | undefined;
}

/** What is held now. Without the sandbox's thread, which the process keeps for a while and which begins again when needed. */
export async function holdings(): Promise<Holdings> {
  await sandbox().end();
  return {
    buffers: liveBufferCount(),
    graphMemories: liveGraphMemoryCount(),
    weightFiles: openFileCount(),
    descriptors: process.platform === "linux" ? readdirSync("/proc/self/fd").length : undefined,
  };
}

/** Runs `work` and expects that it left nothing behind, whether it succeeded or not. */
export async function leavesNothing<T>(work: () => Promise<T>): Promise<T> {
  const before = await holdings();
  try {
    return await work();
  } finally {
    expect(await holdings()).toEqual(before);
  }
}

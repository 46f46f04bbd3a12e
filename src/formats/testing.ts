// For the tests of this folder only: temporary folders, hand-made safetensors files, and a count of open handles.
import { mkdtempSync, readdirSync, readlinkSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import { temporaryName } from "../base/files/temporary.ts";

/** A new folder that is removed when the running test ends. */
export function temporaryFolder(): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), "spillway-checkpoint-")));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** The folder of a checkpoint made by the reference implementation. */
export function fixture(name: string): string {
  return fileURLToPath(new URL(`../../test/fixtures/checkpoints/${name}`, import.meta.url));
}

/** A file as the format wants it around `header`, however wrong the header is. `data` is its bytes, or how many. */
export function safetensorsBytes(header: unknown, data: number | Uint8Array = 0): Buffer {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, typeof data === "number" ? Buffer.alloc(data) : data]);
}

/** Writes {@link safetensorsBytes} to `dir`/`name` and returns the path. */
export function writeRaw(dir: string, name: string, header: unknown, data: number | Uint8Array = 0): string {
  const path = join(dir, name);
  writeFileSync(path, safetensorsBytes(header, data));
  return path;
}

/** Handles this process has open on files below `dir`; undefined where the platform does not say. */
export function openHandles(dir: string): number | undefined {
  if (process.platform !== "linux") return undefined;
  let open = 0;
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`).startsWith(dir)) open++;
    } catch {
      // the handle that listed the folder is gone by now
    }
  }
  return open;
}

/** A temporary name as another process would have made it: one that is gone, or one that cannot be looked for. */
export function leftover(target: string, of: "gone" | "elsewhere", options?: { hidden?: boolean }): string {
  const own = temporaryName(target, options);
  const tag = `-${process.pid}-`;
  if (of === "elsewhere") return own.replace(/\.tmp-[0-9a-f]{12}-/, ".tmp-0123456789ab-");
  // This process's number, of one that was started at another time.
  return own.replace(new RegExp(`${tag}\\d*-`), `${tag}1-`);
}

/** What `promise` rejects with. Throws if it does not. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it did not reject");
}

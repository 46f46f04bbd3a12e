// What tells a model from another, for checkpoints of a run over it: its configuration, its tensors, and samples of their
// values. Reads at most some 64 MiB whatever the size of the model, so a change of few values in a large tensor can be missed.
import { createHash, type Hash } from "node:crypto";
import { throwIfAborted } from "../../base/errors.ts";
import { readExactly, withFile } from "../../formats/files/files.ts";
import type { Checkpoint, TensorEntry } from "../../formats/types.ts";

/** Bytes of a sample. */
const SAMPLE = 4096;
/** A model of at most so many bytes is read whole; of a larger one about as much is sampled. */
const BUDGET = 64 * 2 ** 20;
/** Of each tensor: its first and last bytes are among them. */
const [FEWEST, MOST] = [2, 64];

export interface ModelFingerprint {
  readonly config: string;
  /** Names, types and shapes. */
  readonly tensors: string;
  readonly values: string;
}

/** Keys of config.json that do not change what the model computes, or are compared otherwise. */
const UNRELATED: ReadonlySet<string> = new Set([
  ...["_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"],
]);

/** Throws CheckpointError, IoError, AbortError. */
export async function modelFingerprint(
  { tensors, files }: Checkpoint,
  config: Readonly<Record<string, unknown>>,
  signal?: AbortSignal,
): Promise<ModelFingerprint> {
  const ordered = [...tensors.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  const facts = createHash("sha256");
  for (const { name, dtype, shape } of ordered) facts.update(`${name} ${dtype} ${shape}\n`);
  const total = ordered.reduce((sum, { bytes }) => sum + bytes, 0);
  const share = Math.floor(BUDGET / SAMPLE / Math.max(1, ordered.length));
  const samples = total <= BUDGET ? Number.POSITIVE_INFINITY : Math.min(MOST, Math.max(FEWEST, share));
  const digests = new Map<string, string>();
  for (const [number, { path }] of files.entries()) {
    await withFile(path, async (handle) => {
      const piece = new Uint8Array(SAMPLE * 64);
      for (const entry of ordered) {
        if (entry.file !== number) continue;
        throwIfAborted(signal);
        const hash = createHash("sha256");
        for (const [at, length] of ranges(entry.bytes, samples, piece.length)) {
          const part = piece.subarray(0, length);
          await readExactly(handle, part, entry.offset + at, path);
          hash.update(part);
        }
        digests.set(entry.name, hash.digest("hex"));
      }
    });
  }
  const values = createHash("sha256");
  for (const { name } of ordered) values.update(`${name} ${digests.get(name)}\n`);
  const plain = Object.fromEntries(Object.entries(config).filter(([key]) => !UNRELATED.has(key)));
  return {
    config: short(createHash("sha256").update(canonical(plain))),
    tensors: short(facts),
    values: short(values),
  };
}

/** Ranges of `bytes`, in pieces of at most `most`: all of it, or samples that are spread evenly from its start to its end. */
function* ranges(bytes: TensorEntry["bytes"], samples: number, most: number): Generator<[number, number]> {
  if (bytes <= samples * SAMPLE) {
    for (let at = 0; at < bytes; at += most) yield [at, Math.min(most, bytes - at)];
    return;
  }
  for (let i = 0; i < samples; i++) yield [Math.floor(((bytes - SAMPLE) * i) / (samples - 1)), SAMPLE];
}

function short(hash: Hash): string {
  return hash.digest("hex").slice(0, 32);
}

/** JSON with the members of objects in one order. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, member: unknown) =>
    typeof member === "object" && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}

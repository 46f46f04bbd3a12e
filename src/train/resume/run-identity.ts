// What a run's later part must have in common with its earlier one, as JSON in its checkpoints: data, tokenizer, and the
// settings that decide what a row becomes. What of the trainer must stay is in options.ts.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { ConfigError, SpillwayError } from "../../base/errors.ts";
import type { RowTokenizer } from "../data/index.ts";
import type { FitSettings } from "../fit/fit-options.ts";
import { canonical } from "./base-fingerprint.ts";
import { changedFiles, type FileFingerprint, fileFingerprints, fingerprintsIn } from "./data-fingerprint.ts";
import { differences } from "./resume-point.ts";

export interface RunIdentity {
  readonly data: readonly FileFingerprint[];
  readonly validation: readonly FileFingerprint[];
  /** May not change: rows would become other examples. */
  readonly rows: Readonly<Record<string, unknown>>;
  /** May change, and that is said: later steps are made of other batches. */
  readonly batches: Readonly<Record<string, unknown>>;
}

/** The name under which a checkpoint's meta holds a {@link RunIdentity}. */
export const IDENTITY_KEY = "run";

export interface RunIdentityOptions {
  readonly settings: FitSettings;
  readonly tokenizer: RowTokenizer;
  readonly max_length: number;
  /** Of the model, where its own tokenizer is used. */
  readonly modelPath: string | undefined;
  /** Of the checkpoint that is resumed: files that are still the same need not be read again. */
  readonly known: RunIdentity | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Reads all files of the data once. Throws CheckpointError, IoError, AbortError. */
export async function runIdentity(options: RunIdentityOptions): Promise<RunIdentity> {
  const { settings, tokenizer, max_length, modelPath, known, signal } = options;
  const { loader, validation_size } = settings;
  const { template_options = {}, eos_token_id = null, packing = true, append_eos = true, seed } = loader;
  return {
    data: await fileFingerprints(settings.data, known?.data, signal),
    validation: await fileFingerprints(settings.validation ?? [], known?.validation, signal),
    rows: {
      ...{ packing, append_eos, eos_token_id, seed, max_length, validation_size },
      template_options: canonical(template_options),
      ...(await tokenizerIdentity(tokenizer, template_options, modelPath)),
    },
    batches: {
      micro_batch_size: loader.micro_batch_size ?? 1,
      gradient_accumulation_steps: loader.gradient_accumulation_steps ?? 1,
    },
  };
}

/** The identity in a checkpoint's meta, if there is one. */
export function identityOf(meta: Readonly<Record<string, unknown>>): RunIdentity | undefined {
  const saved = meta[IDENTITY_KEY];
  if (typeof saved !== "object" || saved === null) return undefined;
  const { data, validation, rows, batches } = saved as Record<string, unknown>;
  const members = (value: unknown) =>
    typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  return {
    data: fingerprintsIn(data),
    validation: fingerprintsIn(validation),
    rows: members(rows),
    batches: members(batches),
  };
}

/**
 * What changed and may, a line each. Throws ConfigError that names everything that changed and may not. `acceptData`: other
 * contents of the data are taken, row by row.
 */
export function compareRuns(
  before: RunIdentity | undefined,
  now: RunIdentity,
  path: string,
  acceptData: boolean,
): string[] {
  if (!before)
    throw new ConfigError(`${path} does not say what it was trained on: resume from another, or start anew`);
  const problems = differences(before.rows, now.rows);
  const notes = differences(before.batches, now.batches);
  const data = changedFiles(before.data, now.data);
  if (data && acceptData) notes.push(`data: ${data}; it goes on at the same row`);
  else if (data)
    problems.push(
      `data: ${data}; rows would come twice or never (accept_data_changes, --accept-data-changes, goes on at the same row)`,
    );
  const validation = changedFiles(before.validation, now.validation);
  if (validation) notes.push(`validation: ${validation}`);
  if (problems.length > 0) {
    throw new ConfigError(
      `${path} was saved by a run of other settings: ${problems.join(", ")}; give what was given before, or start anew`,
    );
  }
  return notes;
}

const PROBES = [
  ...["The quick brown fox jumps over 13 lazy dogs.", "  two  spaces\n\nand lines\t", "naïve café 漢字 🙂 ﬁ"],
  ...["1 2 3", "3.14159 0x1F 1,000", "<s></s><|endoftext|><|im_start|>", "don't can’t I'll", "a".repeat(40)],
  ..."for (let i = 0; i < 10; i++) {}\nhttps://example.com/?a=b".split("\n"),
];
const CHATS = [
  [{ role: "user", content: "Hello" }],
  [
    ...[
      { role: "system", content: "Be brief." },
      { role: "user", content: "1 2" },
    ],
    ...[
      { role: "assistant", content: "3" },
      { role: "user", content: "4" },
    ],
  ],
];
/** Templates write the day: the next one makes no other template. */
const DATE = /\d{4}-\d{2}-\d{2}|\d{1,2} [A-Z][a-z]{2,8} \d{4}|[A-Z][a-z]{2,8} \d{1,2}, \d{4}/g;
const TOKENIZER_FILES = ["tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"];

/** What a tokenizer and its template make of a few texts, and the digest of the model's own files of tokens. */
async function tokenizerIdentity(
  tokenizer: RowTokenizer,
  template: object,
  modelPath: string | undefined,
): Promise<{ tokenizer: string; chat_template: string }> {
  const made = async (make: () => unknown) => {
    try {
      return await make();
    } catch (error) {
      return error instanceof SpillwayError ? error.message : String(error);
    }
  };
  const ids: unknown[] = [tokenizer.eos_token_ids];
  for (const text of PROBES) ids.push(await made(() => tokenizer.encode(text)));
  for (const name of modelPath === undefined ? [] : TOKENIZER_FILES) {
    const path = join(modelPath as string, name);
    ids.push(
      await fileFingerprints([path]).then(
        ([file]) => file?.sha256,
        () => null,
      ),
    );
  }
  const chats: unknown[] = [];
  for (const chat of CHATS) {
    const text = await made(() =>
      tokenizer.apply_chat_template(chat, { date_string: "1 Jan 2000", ...template }),
    );
    chats.push(typeof text === "string" ? text.replace(DATE, "today") : text);
  }
  const digest = (value: unknown) =>
    createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);
  return { tokenizer: digest(ids), chat_template: digest(chats) };
}

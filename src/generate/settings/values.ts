// What a call and a checkpoint's generation_config.json together say about generating: the call's values, else the
// file's, else the reference's. Ranges are checked when values are used: odd ones that nothing reads are no error, unless
// they are no numbers at all.

import { ConfigError } from "../../base/errors.ts";
import { joinNotes, listed } from "../../base/notes.ts";
import { shown } from "../../base/shown.ts";
import { HONOURED, type HonouredKey, type HonouredName, NOT_DONE, READ_ELSEWHERE } from "./keys.ts";

/** Values of one source, not checked yet. undefined and null mean that it does not say. */
export type RawValues = Readonly<Record<string, unknown>>;

/** How tokens are chosen and when that ends. Names and meanings as in transformers' GenerationConfig. */
export interface GenerationValues {
  readonly do_sample: boolean;
  /** The rest of how a token is drawn; there only where do_sample is true. */
  readonly temperature?: number;
  readonly top_h?: number;
  readonly top_k?: number;
  readonly top_p?: number;
  readonly min_p?: number;
  readonly typical_p?: number;
  readonly epsilon_cutoff?: number;
  readonly eta_cutoff?: number;
  readonly repetition_penalty?: number;
  readonly encoder_repetition_penalty?: number;
  readonly no_repeat_ngram_size?: number;
  readonly encoder_no_repeat_ngram_size?: number;
  readonly sequence_bias?: readonly (readonly [readonly number[], number])[];
  readonly bad_words_ids?: readonly (readonly number[])[];
  readonly min_length?: number;
  readonly min_new_tokens?: number;
  readonly max_length?: number;
  readonly max_new_tokens?: number;
  readonly max_time?: number;
  readonly forced_bos_token_id?: number;
  readonly forced_eos_token_id?: readonly number[];
  readonly remove_invalid_values?: boolean;
  readonly exponential_decay_length_penalty?: readonly [number, number];
  readonly suppress_tokens?: readonly number[];
  readonly begin_suppress_tokens?: readonly number[];
  readonly stop_strings?: readonly string[];
}

/** Where a value comes from, for messages. */
const FILE = "generation_config.json: ";

/**
 * Joins and checks. `notes`: options of the call that are not used.
 * Throws ConfigError naming the option or the file's key, its value and what is accepted.
 */
export function generationValues(
  call: RawValues,
  file: RawValues,
): { values: GenerationValues; notes: readonly string[] } {
  const values: Record<string, unknown> = {};
  const use = (name: HonouredName): void => {
    const rule: HonouredKey = HONOURED[name];
    for (const [source, where] of [
      [call, ""],
      [file, FILE],
    ] as const) {
      const value = source[name] ?? undefined;
      if (value === undefined) continue;
      if (!rule.accepts(value))
        throw new ConfigError(`${where}${name} must be ${rule.range}, got ${shown(value)}`);
      values[name] = value;
      return;
    }
    if (rule.default !== undefined) values[name] = rule.default;
  };
  use("do_sample");
  const names = Object.keys(HONOURED) as HonouredName[];
  for (const name of names) if (HONOURED[name].used === "always" || values.do_sample === true) use(name);
  // What the caller says of the length is not undone by what the file says in other words.
  if (values.max_length !== undefined && isSet(call.max_length) && !isSet(call.max_new_tokens))
    values.max_new_tokens = undefined;
  for (const name of ["stop_strings", "forced_eos_token_id"]) {
    if (values[name] !== undefined && !Array.isArray(values[name])) values[name] = [values[name]];
  }
  const drawing = names.filter((name) => HONOURED[name].used === "drawing" && values.do_sample !== true);
  for (const name of drawing) {
    if (isSet(file[name]) && !isOfItsKind(name, file[name]))
      throw new ConfigError(`${FILE}${name} must be ${HONOURED[name].range}, got ${shown(file[name])}`);
  }
  const unused = drawing.filter((name) => differs(name, call[name]));
  const notes = unused.map(
    (name) =>
      `${name} is used only where tokens are drawn: set do_sample: true (--do-sample), or leave it out`,
  );
  return { values: values as unknown as GenerationValues, notes };
}

/** A number out of its range may wait until it is used; what is no number, or no count, is a damaged file. */
function isOfItsKind(name: HonouredName, value: unknown): boolean {
  return name === "top_k" ? Number.isSafeInteger(value) && Number(value) >= 0 : typeof value === "number";
}

function isSet(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function differs(name: HonouredName, value: unknown): boolean {
  return isSet(value) && value !== (HONOURED[name] as HonouredKey).default;
}

/** What a file asks for that is not done, a note for each kind: see base/notes.ts. */
export function fileNotes(file: RawValues): readonly string[] {
  const notes = Object.entries(NOT_DONE)
    .filter(([name, { harmless }]) => isSet(file[name]) && !harmless(file[name]))
    .map(([name, { why }]) => `${FILE}${name} is ${shown(file[name])} and is ignored: ${why}`);
  const known = new Set([...Object.keys(HONOURED), ...Object.keys(NOT_DONE), ...READ_ELSEWHERE]);
  const unknown = Object.keys(file).filter((key) => !known.has(key) && isSet(file[key]));
  const more = unknown.length === 0 ? [] : [`${FILE}${listed(unknown)}: not known and ignored`];
  return joinNotes(notes, more);
}

/** Throws ConfigError for what a caller asks for that is not done; values that ask for nothing are no error. */
export function refuseNotDone(call: RawValues): void {
  for (const [name, { harmless, why }] of Object.entries(NOT_DONE)) {
    if (!isSet(call[name]) || harmless(call[name])) continue;
    throw new ConfigError(`${name}: ${shown(call[name])} cannot be done (${why}); leave it out`);
  }
}

/** Names of the options of generate and stream that this table knows. */
export const GENERATION_OPTIONS: readonly string[] = [...Object.keys(HONOURED), ...Object.keys(NOT_DONE)];

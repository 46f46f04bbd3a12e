// PEFT adapter folders: adapter_config.json and adapter_model.safetensors, opened and written for a model that is known.
// Headers only on opening; the data of a tensor is read with readTensor, or streamed, from the checkpoint in the result.
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { FloatDType } from "../backend/ggml/dtypes.ts";
import { CheckpointError, IoError, UnsupportedError } from "../base/errors.ts";
import { listed } from "../base/notes.ts";
import { listFolder, statIfPresent } from "../formats/files/files.ts";
import { stageFile } from "../formats/files/staged-file.ts";
import {
  type Checkpoint,
  openCheckpoint,
  readJsonObject,
  type TensorSource,
  writeSafetensors,
} from "../formats/index.ts";
import { requireAdapterFolder } from "../formats/model-path.ts";
import type { ModelSpec, WeightSpec } from "../models/spec.ts";
import { checkCopies } from "./base-copies.ts";
import { type LoraConfig, loraConfigJson, parseLoraConfig, unknownKeys } from "./config.ts";
import { copyNameOf, savedName, withCanonicalNames } from "./names.ts";
import { checkAddedTokens, ownTokenizer, ownTokenizerNote } from "./own-tokenizer.ts";
import { type LoraTarget, loraTargets, savedWeights } from "./targets.ts";
import { tableIn, vocabularyTables, withVocabularyOf } from "./vocabulary.ts";

export const ADAPTER_CONFIG = "adapter_config.json";
export const ADAPTER_WEIGHTS = "adapter_model.safetensors";

const DTYPES: readonly string[] = ["f32", "f16", "bf16"] satisfies FloatDType[];

/** An adapter for one model. Its tensors are known by name, type, shape and file range. */
export interface Adapter {
  /** Its folder, as it was given. */
  readonly dir: string;
  readonly config: LoraConfig;
  /** The layers it changes, in the order of the model. */
  readonly targets: readonly LoraTarget[];
  /** Parameters it replaces; in its file they are named {@link savedName} of theirs. */
  readonly saved: readonly WeightSpec[];
  /** Tables of the vocabulary that its file has beside these, with their names there: they take the base's place, ties and all. */
  readonly tables: readonly { readonly weight: WeightSpec; readonly stored: string }[];
  /** The model it is for: with as many tokens as its tables have rows. */
  readonly spec: ModelSpec;
  /** What its config says that is not used: see base/notes.ts. */
  readonly notes: readonly string[];
  /** Its tensors by the names PEFT gives them, whoever wrote the file. */
  readonly checkpoint: Checkpoint;
}

/** A tensor of an adapter's file. */
export interface AdapterTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** The tensors that an adapter's file must hold: A and B of each target, then the parameters saved whole. */
export function adapterTensors(
  targets: readonly LoraTarget[],
  saved: readonly WeightSpec[],
): AdapterTensor[] {
  return [
    ...targets.flatMap((target) => [
      { name: target.a, shape: [target.r, target.in] },
      { name: target.b, shape: [target.out, target.r] },
    ]),
    ...saved.map(({ name, shape }) => ({ name: savedName(name), shape })),
  ];
}

/**
 * Opens the adapter in the folder `dir` for the model `spec`. Copies of the model's weights that PEFT put in its file are
 * compared with those of `base`, where that is given.
 * Throws CheckpointError if a file is missing or malformed or the tensors are not those the config calls for,
 * ConfigError and UnsupportedError that name the key for a config that cannot be used, UnsupportedError for a copy that is
 * not the base's, IoError.
 */
export async function openAdapter(
  dir: string,
  spec: ModelSpec,
  options: { signal?: AbortSignal; base?: Checkpoint } = {},
): Promise<Adapter> {
  await requireAdapterFolder(dir);
  const configPath = resolve(dir, ADAPTER_CONFIG);
  const config = parseLoraConfig(await readJsonObject(configPath), configPath);
  const path = resolve(dir, ADAPTER_WEIGHTS);
  if ((await statIfPresent(path)) === undefined) throw await missing(dir, path);
  const checkpoint = withCanonicalNames(await openCheckpoint(path, options), path);
  const own = withVocabularyOf(checkpoint, spec);
  const targets = loraTargets(config, own, configPath);
  const saved = savedWeights(config, own, configPath);
  for (const { name, dtype } of checkpoint.tensors.values()) {
    if (DTYPES.includes(dtype)) continue;
    throw new UnsupportedError(`${path}: tensor ${name} is ${dtype}; adapters may be ${DTYPES.join(", ")}`);
  }
  const kept = new Set(saved.map(({ name }) => name));
  const resized = own.vocab_size !== spec.vocab_size;
  const tables: Adapter["tables"][number][] = [];
  for (const weight of vocabularyTables(own)) {
    const stored = tableIn(checkpoint, weight);
    const isCopy = stored === copyNameOf(weight.name) && !resized;
    if (stored !== undefined && !isCopy && !kept.has(weight.name)) tables.push({ weight, stored });
  }
  const copies = [...targets.map(({ weight }) => weight), ...saved].filter(({ name }) =>
    tables.every(({ weight }) => weight.name !== name),
  );
  checkTensors(
    adapterTensors(targets, saved),
    [...checkpoint.tensors.values()],
    path,
    ADAPTER_CONFIG,
    config.base_model_name_or_path,
    [
      ...copies.map(({ name, shape }) => ({ name: copyNameOf(name), shape })),
      ...tables.map(({ weight, stored }) => ({ name: stored, shape: weight.shape })),
    ],
  );
  if (resized) checkResized({ tables, saved }, own, spec, path);
  const unknown = unknownKeys(config);
  const own_tokenizer = await ownTokenizer(resolve(dir));
  if (own_tokenizer.tokenizer) await checkAddedTokens(resolve(dir), own.vocab_size);
  const notes = [
    ...(unknown.length > 0 ? [`${configPath}: ${listed(unknown)} is not known here and not used`] : []),
    ...ownTokenizerNote(dir, own_tokenizer),
  ];
  const adapter = { dir, config, targets, saved, tables, spec: own, notes, checkpoint };
  if (options.base) await checkCopies({ copies, checkpoint }, options.base, spec, options.signal);
  return adapter;
}

/** Every table must come with the adapter where the base's have another number of rows: of tied ones either. */
function checkResized(
  { tables, saved }: Pick<Adapter, "tables" | "saved">,
  own: ModelSpec,
  base: ModelSpec,
  path: string,
): void {
  const keptWhole = new Set(saved.map(({ name }) => name));
  const real = (name: string) => {
    const other = own.tied[name];
    return other === undefined || keptWhole.has(name) || keptWhole.has(other) ? name : other;
  };
  const there = new Set([...tables.map(({ weight }) => weight), ...saved].map(({ name }) => real(name)));
  const lacking = vocabularyTables(own).find(({ name }) => !there.has(real(name)));
  if (lacking === undefined) return;
  throw new CheckpointError(
    `has a table of ${own.vocab_size} tokens where the model has ${base.vocab_size}, but none for ${lacking.name}: save ` +
      "the adapter with save_embedding_layers=True, which writes them all",
    { file: path },
  );
}

/**
 * Writes an adapter for the model `spec` into the folder `dir`, made if need be. An adapter that was there is replaced
 * once both files are complete. `tensors` must be those of {@link adapterTensors}, in any order; `tables` those of the
 * vocabulary that go with it, by their names in the file.
 * Throws CheckpointError for tensors that are not those the config calls for; as writeSafetensors.
 */
export async function writeAdapter(
  dir: string,
  config: LoraConfig,
  spec: ModelSpec,
  tensors: Iterable<TensorSource>,
  options: { signal?: AbortSignal; tables?: readonly TensorSource[] } = {},
): Promise<void> {
  const folder = resolve(dir);
  const path = join(folder, ADAPTER_WEIGHTS);
  const { signal, tables = [] } = options;
  const list = [...tensors];
  // Before the device is touched: what is written must open again.
  const checked = parseLoraConfig(loraConfigJson(config), ADAPTER_CONFIG);
  const targets = loraTargets(checked, spec);
  checkTensors(adapterTensors(targets, savedWeights(checked, spec)), list, path, "the config");
  // PEFT looks for the bias of a layer it has wrapped under the wrapper's name.
  const wrapped = new Map(
    targets.map(({ module }) => [savedName(`${module}.bias`), copyNameOf(`${module}.bias`)]),
  );
  const stored = list.map((tensor) => ({ ...tensor, name: wrapped.get(tensor.name) ?? tensor.name }));
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw new IoError("the folder could not be made", folder, { cause: error });
  }
  const json = new TextEncoder().encode(`${JSON.stringify(loraConfigJson(config), null, 2)}\n`);
  const staged = await stageFile(join(folder, ADAPTER_CONFIG), json.length, (sink) => sink.append(json));
  try {
    await writeSafetensors(path, [...stored, ...tables], {
      ...(signal && { signal }),
      metadata: { format: "pt" },
    });
    await staged.commit();
  } catch (error) {
    await staged.discard();
    throw error;
  }
}

const PICKLE = "adapter_model.bin";

async function missing(dir: string, path: string): Promise<Error> {
  if ((await listFolder(resolve(dir))).includes(PICKLE)) {
    return new UnsupportedError(
      `${join(dir, PICKLE)}: pickled weights are not read, because reading them can run anything; save the adapter with ` +
        "safe_serialization=True",
    );
  }
  return new CheckpointError(
    `does not exist beside ${ADAPTER_CONFIG}: copy it from where the adapter comes from`,
    { file: path },
  );
}

/** Problems listed in a message before the rest is only counted. */
const LISTED = 8;

/** Throws one CheckpointError with every tensor that is missing, has another shape, or is not called for. */
function checkTensors(
  expected: readonly AdapterTensor[],
  given: readonly AdapterTensor[],
  path: string,
  caller: string,
  madeFor: string | null = null,
  optional: readonly AdapterTensor[] = [],
): void {
  const shapes = new Map(given.map(({ name, shape }) => [name, shape]));
  const problems: string[] = [];
  for (const { name, shape } of [...expected, ...optional.filter((tensor) => shapes.has(tensor.name))]) {
    const has = shapes.get(name);
    shapes.delete(name);
    if (has === undefined) problems.push(`${name} [${shape}] is missing`);
    else if (has.join() !== shape.join())
      problems.push(`${name} is [${has}], ${caller} calls for [${shape}]`);
  }
  for (const [name, shape] of shapes) problems.push(`${name} [${shape}] is not called for`);
  if (problems.length === 0) return;
  const more = problems.length > LISTED ? `\n  and ${problems.length - LISTED} more` : "";
  const lines = problems.slice(0, LISTED).map((problem) => `\n  ${problem}`);
  const hint = madeFor ? ` (the adapter says it is for ${madeFor})` : "";
  throw new CheckpointError(
    `${problems.length} of the tensors do not fit ${caller} and the model${hint}:${lines.join("")}${more}`,
    { file: path },
  );
}

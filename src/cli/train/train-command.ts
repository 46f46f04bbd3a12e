// What a training run was told, for its report: the command that runs it again, and its settings by name.
import { shown } from "../../base/shown.ts";
import { flagOf, TRAIN_OPTION_NAMES, TRAIN_OPTIONS, type TrainConfig } from "./train-options.ts";

/** Options that say where things are, not how it is trained. */
const PLACES = new Set<string>([
  ...["data", "validation", "output", "export", "resume", "report", "tensorboard", "logging_steps", "keep"],
  ...["offload_folder", "cpu", "gpu", "disk", "device", "threads"],
]);

/** The command line, whatever of it came from a config file. */
export function commandOf(model: string, config: TrainConfig): string {
  const words = ["spillway", "train", quoted(model)];
  for (const [name, value] of given(config)) {
    const { value: placeholder, negative } = TRAIN_OPTIONS[name] as { value?: string; negative?: boolean };
    if (typeof value === "boolean") {
      if (negative) words.push(...(value ? [] : [`--no-${flagOf(name).slice(2)}`]));
      else if (value) words.push(flagOf(name));
      else if (placeholder !== undefined) words.push(`--no-${flagOf(name).slice(2)}`);
    } else if (name === "data" || name === "validation") {
      for (const path of value as readonly string[]) words.push(flagOf(name), quoted(path));
    } else words.push(flagOf(name), quoted(textOf(value)));
  }
  return words.join(" ");
}

/** What runs are compared by, where nothing was said. */
const DEFAULTS: TrainConfig = {
  ...{ optimizer: "adamw", learning_rate: 5e-5, lr_scheduler_type: "constant", weight_decay: 0 },
  ...{ max_grad_norm: 1, micro_batch_size: 1, gradient_accumulation_steps: 1, packing: true, seed: 0 },
};

/** How it was trained: every option that is not about places or memory, and the defaults of those that matter most. */
export function settingsOf(config: TrainConfig): { what: string; value: string }[] {
  return given({ ...DEFAULTS, ...config })
    .filter(([name]) => !PLACES.has(name))
    .map(([name, value]) => ({ what: name, value: short(textOf(value)) }));
}

function given(config: TrainConfig) {
  return TRAIN_OPTION_NAMES.flatMap((name) =>
    config[name] === undefined ? [] : [[name, config[name] as unknown] as const],
  );
}

function textOf(value: unknown): string {
  if (Array.isArray(value)) return value.join(",");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

const short = (text: string) => (text.length > 120 ? `${text.slice(0, 120)}…` : text);

/** As a shell takes it. */
function quoted(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return /[\p{Cc}]/u.test(word) ? shown(word, 400) : `'${word.replaceAll("'", "'\\''")}'`;
}

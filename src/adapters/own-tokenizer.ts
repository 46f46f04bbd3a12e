// The tokenizer and chat template that TRL, axolotl and the like save in an adapter's folder: what is there, whether the
// model has rows for its tokens, and how it goes into a folder that is written. What it means is generate/tokenizer.ts.
import { copyFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { UnsupportedError } from "../base/errors.ts";
import { isJsonObject } from "../base/json.ts";
import { counted, listed } from "../base/notes.ts";
import { shown } from "../base/shown.ts";
import { listFolder, statIfPresent } from "../formats/files/files.ts";
import { LARGE_FILE_LIMIT, readJsonIfPresent } from "../formats/files/json-files.ts";
import { replaceFile } from "../formats/files/staged-file.ts";
import { refused } from "../formats/model-folder.ts";

const TOKENIZER = "tokenizer.json";
const CONFIG = "tokenizer_config.json";
/** A template in a file of its own counts before one in tokenizer_config.json. */
const TEMPLATES = ["chat_template.jinja", "chat_template.json"];
const FILES = [
  ...[TOKENIZER, CONFIG, "special_tokens_map.json", "added_tokens.json", "tokenizer.model"],
  ...["vocab.json", "merges.txt", ...TEMPLATES],
];

/** What an adapter's folder has of a tokenizer. */
export interface OwnTokenizer {
  readonly tokenizer: boolean;
  readonly template: boolean;
}

/** What is in the folder `dir`: nothing where there is none. Throws CheckpointError for a malformed file, IoError. */
export async function ownTokenizer(dir: string): Promise<OwnTokenizer> {
  if (!(await statIfPresent(dir))?.isDirectory()) return { tokenizer: false, template: false }; // opening it says so
  const names = await listFolder(dir);
  const template =
    TEMPLATES.some((name) => names.includes(name)) || (await templateInConfig(dir)) !== undefined;
  return { tokenizer: names.includes(TOKENIZER), template };
}

/** A note on what of it is used, if anything. */
export function ownTokenizerNote(dir: string, { tokenizer, template }: OwnTokenizer): string[] {
  if (!tokenizer && !template) return [];
  const what = [tokenizer && "tokenizer", template && "chat template"].filter((one) => one !== false);
  return [`${dir}: the adapter's own ${what.join(" and ")} ${what.length > 1 ? "are" : "is"} used`];
}

/** Throws UnsupportedError where tokens were added to the adapter's tokenizer that a model of `vocab` rows cannot embed. */
export async function checkAddedTokens(dir: string, vocab: number): Promise<void> {
  const added = (await readJsonIfPresent(dir, TOKENIZER, LARGE_FILE_LIMIT))?.added_tokens;
  const beyond = (Array.isArray(added) ? added : []).filter(
    (token: unknown) => isJsonObject(token) && typeof token.id === "number" && token.id >= vocab,
  ) as { id: number; content: unknown }[];
  if (beyond.length === 0) return;
  const names = listed(beyond.map(({ id, content }) => `${shown(content)} (${id})`));
  throw new UnsupportedError(
    `${join(dir, TOKENIZER)}: has ${counted(beyond.length, "token")} that the model's ${vocab} rows end before: ${names}; ` +
      "the adapter must bring the embeddings that were resized for them: save it with save_embedding_layers=True",
  );
}

/** Puts what the adapter's folder has of a tokenizer into `to`, in the place of what is there. Throws IoError. */
export async function putTokenizer(dir: string, to: string): Promise<void> {
  const own = await ownTokenizer(dir);
  if (!own.tokenizer && !own.template) return;
  const names = await listFolder(dir);
  const inConfig = await templateInConfig(dir);
  // What tokenizer.json of the adapter takes the place of may hold the only template there is.
  const before = own.template ? undefined : await templateInConfig(to);
  if (own.template) for (const name of TEMPLATES) await rm(join(to, name), { force: true });
  for (const name of own.tokenizer ? FILES : TEMPLATES) {
    if (!names.includes(name)) continue;
    await refused("could not be copied", join(dir, name), () => copyFile(join(dir, name), join(to, name)));
  }
  // A file of its own counts before whatever tokenizer_config.json of the base or of the adapter holds.
  const text = own.template
    ? (inConfig ?? (await readJsonIfPresent(dir, "chat_template.json"))?.chat_template)
    : before;
  if (text === undefined || (await listFolder(to)).includes("chat_template.jinja")) return;
  await (typeof text === "string"
    ? writeText(join(to, "chat_template.jinja"), text)
    : writeText(join(to, "chat_template.json"), JSON.stringify({ chat_template: text })));
}

/** One template, or a list of them with names. */
async function templateInConfig(dir: string): Promise<unknown> {
  return (await readJsonIfPresent(dir, CONFIG))?.chat_template ?? undefined;
}

async function writeText(path: string, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  await replaceFile(path, bytes.length, (sink) => sink.append(bytes));
}

// Folders that results are exported into: only one that is empty, or that holds an earlier export of the same run and
// nothing else, is written to. A hidden file says what an export consists of; other programs pass over it.
import { join, resolve } from "node:path";
import { ConfigError } from "../base/errors.ts";
import { isWithin, sameFileAmong } from "../base/files/same-file.ts";
import { isJsonObject, parseJson } from "../base/json.ts";
import { listed } from "../base/notes.ts";
import { listFolder, statIfPresent } from "./files/files.ts";
import { readText } from "./files/json-files.ts";
import { replaceFile } from "./files/staged-file.ts";

export const EXPORT_MARK = ".spillway-export.json";
const FORMAT = "spillway-export";

/** In the list of an export that is not finished: what is in the folder is all its own. */
export const ANYTHING = "*";

/** Files that people put beside a model and that change nothing about it. */
const HARMLESS = /^\.|^(readme|license|notice)(\.|$)/i;

/** Throws ConfigError where `dir` is one of the folders that are read, under whatever name. */
export async function refuseInputs(dir: string, inputs: readonly string[], what: string): Promise<void> {
  const input = await sameFileAmong(dir, inputs);
  if (input === undefined) return;
  const same = resolve(dir) === resolve(input) ? "" : ` (it is ${input})`;
  throw new ConfigError(`${dir} is read by this run${same}: ${what} into another folder`);
}

/** Throws ConfigError where `dir` is one of the folders that are read, or somewhere in it. */
export async function refuseWithin(dir: string, inputs: readonly string[], what: string): Promise<void> {
  for (const input of inputs) {
    if (!(await isWithin(dir, input))) continue;
    throw new ConfigError(
      `${dir} is in ${input}, which is read by this run and may be copied or published as it is: name a folder ` +
        `outside of it for ${what}`,
    );
  }
}

/** Throws ConfigError unless there is nothing at `dir`, an empty folder, or an export of this run alone. */
export async function checkExportFolder(dir: string, run: string | undefined): Promise<void> {
  const stats = await statIfPresent(dir);
  if (stats === undefined) return;
  if (!stats.isDirectory())
    throw new ConfigError(`${dir} is not a folder: export into one that does not exist yet`);
  const names = (await listFolder(dir)).filter((name) => !HARMLESS.test(name));
  if (names.length === 0) return;
  const mark = await readMark(dir);
  const own = mark !== undefined && mark.run === run ? mark.files : [];
  const others = own.includes(ANYTHING) ? [] : names.filter((name) => !own.includes(name));
  if (others.length === 0) return;
  const what = mark === undefined || mark.run !== run ? "" : ", which this run did not export";
  throw new ConfigError(
    `${dir} is not empty (it holds ${listed(others)}${what}): export into a folder that does not exist yet`,
  );
}

/** Says that `files`, and nothing else, make up the export of a run in `dir`. Throws IoError. */
export async function markExport(dir: string, run: string, files: readonly string[]): Promise<void> {
  const json = Buffer.from(`${JSON.stringify({ format: FORMAT, run, files }, null, 2)}\n`);
  await replaceFile(join(dir, EXPORT_MARK), json.length, (sink) => sink.append(json));
}

/** Names of the files of an export, to be marked once it is written. */
export async function exportedFiles(dir: string): Promise<string[]> {
  return (await listFolder(dir)).filter((name) => !HARMLESS.test(name));
}

async function readMark(dir: string): Promise<{ run: string; files: readonly string[] } | undefined> {
  try {
    const mark = parseJson(await readText(join(dir, EXPORT_MARK)));
    if (!isJsonObject(mark) || mark.format !== FORMAT || typeof mark.run !== "string") return undefined;
    if (!Array.isArray(mark.files) || !mark.files.every((name) => typeof name === "string")) return undefined;
    return { run: mark.run, files: mark.files };
  } catch {
    return undefined;
  }
}

// @ts-check
// What the three scripts share: numbers from the command line, files that appear whole or not at all, failing politely.
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";

/**
 * The whole number an option holds.
 * @param {string} name of the option
 * @param {string} text
 * @param {number} [least]
 */
export function wholeNumber(name, text, least = Number.MIN_SAFE_INTEGER) {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (Number.isSafeInteger(value) && value >= least) return value;
  const range = least > 0 ? `, ${least} or more` : "";
  throw new Error(`--${name} is "${text}", it must be a whole number${range}`);
}

/** Writes a file, in a folder made if need be. @param {string} path @param {string | Uint8Array} content */
export async function writeWhole(path, content) {
  const part = `${path}.${process.pid}.part`;
  await mkdir(dirname(path), { recursive: true });
  try {
    await writeFile(part, content);
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

/** @param {string} path @param {unknown} value */
export async function writeJson(path, value) {
  await writeWhole(path, `${JSON.stringify(value, null, 2)}\n`);
}

/**
 * Runs a script's main function if node was started with that script.
 * @param {string} url import.meta.url of the script
 * @param {() => Promise<void>} main
 */
export async function runIfStarted(url, main) {
  if (process.argv[1] === undefined || url !== pathToFileURL(process.argv[1]).href) return;
  try {
    await main();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}

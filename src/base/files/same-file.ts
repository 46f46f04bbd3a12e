// Whether two paths lead to one file or folder. Paths as texts do not tell: links, "..", bind mounts and file systems that
// take "A" for "a" give one file many. Device and number (inode) do.
import type { BigIntStats } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { basename, dirname, join, parse, resolve } from "node:path";

/** Follows links; undefined where there is nothing, or nothing that can be looked at. */
async function identity(path: string): Promise<BigIntStats | undefined> {
  return stat(path, { bigint: true }).catch(() => undefined);
}

function same(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino;
}

/**
 * Whether two paths lead to the same file or folder, however they are written. Paths where nothing is yet are the same
 * where they would be made in the same folder under the same name.
 */
export async function sameFile(a: string, b: string): Promise<boolean> {
  const [left, right] = await Promise.all([identity(a), identity(b)]);
  if (left && right) return same(left, right);
  if (left || right) return false;
  const [x, y] = await Promise.all([existingPart(a), existingPart(b)]);
  if (x.rest.join("/") !== y.rest.join("/")) return false;
  const [p, q] = await Promise.all([identity(x.path), identity(y.path)]);
  return p !== undefined && q !== undefined && same(p, q);
}

/** Whether `path` is the folder `outer` or somewhere in it. Neither needs to exist. */
export async function isWithin(path: string, outer: string): Promise<boolean> {
  const folder = await identity(outer);
  if (!folder) return sameFile(path, outer);
  let { path: at } = await existingPart(path);
  at = await realpath(at).catch(() => at);
  for (;;) {
    const here = await identity(at);
    if (here && same(here, folder)) return true;
    if (at === parse(at).root) return false;
    at = dirname(at);
  }
}

/** The first of `candidates` that is the same file as `path`. */
export async function sameFileAmong(path: string, candidates: Iterable<string>): Promise<string | undefined> {
  for (const candidate of candidates) if (await sameFile(path, candidate)) return candidate;
  return undefined;
}

/** The longest part of a path that exists, and the names below it. */
export async function existingPart(path: string): Promise<{ path: string; rest: string[] }> {
  const rest: string[] = [];
  let at = resolve(path);
  while (at !== parse(at).root && !(await identity(at))) {
    rest.unshift(basename(at));
    at = dirname(at);
  }
  return { path: at, rest };
}

/** Where `path` leads once links are followed, as far as it exists. */
export async function realPath(path: string): Promise<string> {
  const { path: at, rest } = await existingPart(path);
  return join(await realpath(at).catch(() => at), ...rest);
}

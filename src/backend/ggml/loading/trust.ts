// Whether files that will run as code can be written by others: owner and mode of a file and of every folder above it, links
// followed one by one. Looks only. Windows has no such bits: there every file passes, and its access lists are the user's.
import { lstatSync, readFileSync, readlinkSync, type Stats, statSync } from "node:fs";
import { userInfo } from "node:os";
import { dirname, isAbsolute, join, parse } from "node:path";
import { fileURLToPath } from "node:url";
import { OWN_PLACE } from "../../../base/own-place.ts";

const STICKY = 0o1000;
const GROUP_WRITES = 0o020;
const OTHERS_WRITE = 0o002;
/** As many links in one path as Linux follows. */
const MOST_LINKS = 40;
/** macOS: the group "admin", whose members administer the machine; Homebrew's folders are open to it. */
const MACOS_ADMIN = 80;

/** Who may write without being somebody else; tests give their own. */
export interface Trusted {
  readonly owners: ReadonlySet<number>;
  /** Groups in which there is nobody but those. */
  readonly group: (gid: number) => boolean;
}

/**
 * Why a file or folder must not run as code, as a sentence that ends with what to do; undefined where nobody but root, this
 * user and the owner of this installation may write it or replace it. `leaf`: a folder from which code is loaded, so that
 * not even a sticky bit makes it safe for others to add files. `look` tells owner and mode.
 */
export function whyUntrusted(
  path: string,
  trusted: Trusted | undefined = trustedHere(),
  look: (path: string) => Stats = lstatSync,
): string | undefined {
  if (!trusted) return undefined;
  if (!isAbsolute(path)) return `${path} is not an absolute path`;
  const root = parse(path).root;
  let parts = path.slice(root.length).split("/");
  let at = root;
  let links = 0;
  try {
    let problem = whyNot(at, look(at), false, trusted);
    while (!problem && parts.length > 0) {
      const name = parts.shift() as string;
      if (name === "" || name === ".") continue;
      if (name === "..") {
        at = dirname(at);
        continue;
      }
      const next = join(at, name);
      const stats = look(next);
      problem = whyNot(
        next,
        stats,
        parts.every((rest) => rest === ""),
        trusted,
      );
      if (!stats.isSymbolicLink()) {
        at = next;
        continue;
      }
      if (++links > MOST_LINKS) return `${path} is a circle of links`;
      const target = readlinkSync(next);
      if (isAbsolute(target)) at = root;
      parts = [...target.split("/"), ...parts];
    }
    return problem;
  } catch (error) {
    return `${path} could not be looked at (${error instanceof Error ? error.message : String(error)})`;
  }
}

function whyNot(path: string, stats: Stats, leaf: boolean, { owners, group }: Trusted): string | undefined {
  if (!owners.has(stats.uid)) {
    const us = process.geteuid?.() ?? 0;
    return `${path} belongs to user ${stats.uid}, neither root nor this user (${us}): chown it, or install as this user`;
  }
  if (stats.isSymbolicLink()) return undefined; // its mode says nothing; the folder it is in and its target do
  // In a folder with the sticky bit others can add entries, but not replace those of their owners, which are looked at next.
  if (stats.isDirectory() && !leaf && (stats.mode & STICKY) !== 0) return undefined;
  const mode = (stats.mode & 0o7777).toString(8);
  if ((stats.mode & OTHERS_WRITE) !== 0) {
    return `${path} may be written by everybody (mode ${mode}): chmod o-w ${path}, or install elsewhere`;
  }
  if ((stats.mode & GROUP_WRITES) !== 0 && !group(stats.gid)) {
    return `${path} may be written by group ${stats.gid} (mode ${mode}): chmod g-w ${path}, or install elsewhere`;
  }
  return undefined;
}

/** The first that cannot be trusted of several files and folders. What they have in common is looked at once. */
export function whyAnyUntrusted(paths: readonly string[]): string | undefined {
  const seen = new Map<string, Stats>();
  const look = (path: string) => {
    const stats = seen.get(path) ?? lstatSync(path);
    seen.set(path, stats);
    return stats;
  };
  for (const path of paths) {
    const problem = whyUntrusted(path, undefined, look);
    if (problem) return problem;
  }
  return undefined;
}

let here: Trusted | undefined;

/** Root, this user, and whoever owns this code or Node itself: they decide what runs here anyway. Undefined on Windows. */
function trustedHere(): Trusted | undefined {
  if (process.platform === "win32" || !process.geteuid) return undefined;
  if (here) return here;
  const owners = new Set([0, process.geteuid()]);
  for (const file of [fileURLToPath(OWN_PLACE), process.execPath]) {
    try {
      owners.add(statSync(file).uid);
    } catch {
      // Inside an archive or a single executable: nothing to learn.
    }
  }
  here = { owners, group: (gid) => groupIsOurs(gid, owners) };
  return here;
}

/**
 * Whether a group has no members but the owners: root's, or a private one, which many systems give every user together with
 * files that it may write. What /etc/group and /etc/passwd do not know is taken for a group of others.
 */
function groupIsOurs(gid: number, owners: ReadonlySet<number>): boolean {
  if (gid === 0 || (process.platform === "darwin" && gid === MACOS_ADMIN)) return true;
  try {
    return groupHasOnly(gid, owners, {
      group: readFileSync("/etc/group", "utf8"),
      passwd: readFileSync("/etc/passwd", "utf8"),
      self: userInfo().username,
    });
  } catch {
    return false;
  }
}

/** As group(5) and passwd(5) have it. */
export function groupHasOnly(
  gid: number,
  owners: ReadonlySet<number>,
  files: { readonly group: string; readonly passwd: string; readonly self: string },
): boolean {
  const rows = (text: string) => text.split("\n").map((line) => line.split(":"));
  const users = rows(files.passwd).map(([name, , uid, primary]) => ({ name, uid: Number(uid), primary }));
  const ours = new Set(users.filter(({ uid }) => owners.has(uid)).map(({ name }) => name));
  if (owners.has(process.geteuid?.() ?? -1)) ours.add(files.self);
  const found = rows(files.group).filter(([, , id]) => id === String(gid));
  if (found.length === 0) return false;
  const members = found.flatMap(([, , , list]) => (list ?? "").split(",").filter(Boolean));
  const primary = users.filter((user) => user.primary === String(gid)).map(({ name }) => name);
  return [...members, ...primary].every((name) => ours.has(name));
}

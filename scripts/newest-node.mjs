// Fetches the newest Node that npm's registry has for this machine: node scripts/newest-node.mjs FOLDER
// Puts it into the folder and prints the path of its binary. The registry is the one that npm ci uses.
import { execFileSync } from "node:child_process";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The newest of some versions; what comes before a release does not count. */
export function newest(versions) {
  const numbers = (version) => version.split(".").map(Number);
  return versions
    .filter((version) => /^\d+\.\d+\.\d+$/.test(version))
    .toSorted((a, b) => {
      const [left, right] = [numbers(a), numbers(b)];
      const at = left.findIndex((number, i) => number !== right[i]);
      return at === -1 ? 0 : left[at] - right[at];
    })
    .at(-1);
}

function main(folder) {
  const windows = process.platform === "win32";
  const name = `node-${windows ? "win" : process.platform}-${process.arch}`;
  const npm = (...argv) => execFileSync("npm", argv, { encoding: "utf8", shell: windows });
  const version = newest([JSON.parse(npm("view", name, "versions", "--json"))].flat());
  if (version === undefined) throw new Error(`the registry has no release of ${name}`);
  const [{ filename }] = JSON.parse(
    npm("pack", `${name}@${version}`, "--json", "--pack-destination", folder),
  );
  execFileSync("tar", ["-xzf", join(folder, filename), "-C", folder]);
  console.log(join(resolve(folder), "package", "bin", windows ? "node.exe" : "node"));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) throw new Error("usage: node scripts/newest-node.mjs FOLDER");
  main(folder);
}

// Puts together what several runs of the tests proved and could not prove: node scripts/unproven.mjs FOLDER
// The runs have left that in the folder that SPILLWAY_PROOF named. What one run proved, another need not. Prints the rest
// and ends with 1 where there is any.
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** Tests that no run proved, each once, with the reason of the first run that left it out. */
export function unprovenByAny(proofs) {
  const proven = new Set();
  for (const proof of proofs) {
    for (const name of proof.proven) {
      // A group that is left out stands there as one test of the group's name.
      const parts = name.split(" > ");
      for (let end = 2; end <= parts.length; end++) proven.add(parts.slice(0, end).join(" > "));
    }
  }
  const left = new Map();
  for (const { unproven } of proofs) {
    for (const { test, reason } of unproven) if (!proven.has(test) && !left.has(test)) left.set(test, reason);
  }
  return [...left].map(([test, reason]) => ({ test, reason }));
}

function main(folder) {
  const files = readdirSync(folder).filter((name) => name.endsWith(".json"));
  if (files.length === 0) throw new Error(`${folder}: no run has left what it proved`);
  const proofs = files.map((name) => JSON.parse(readFileSync(join(folder, name), "utf8")));
  for (const { node, proven, unproven } of proofs)
    console.log(`Node ${node}: ${proven.length} tests proven, ${unproven.length} left out`);
  const left = unprovenByAny(proofs);
  if (left.length === 0) return;
  console.error(`\n${left.length} tests were proven by no run:`);
  for (const { test, reason } of left) console.error(`  ${reason}\n    ${test}`);
  process.exitCode = 1;
}

if (resolve(process.argv[1] ?? "") === fileURLToPath(import.meta.url)) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) throw new Error("usage: node scripts/unproven.mjs FOLDER");
  main(folder);
}

// A checkpoint with random weights in the shape of a published model, made on first use and kept for the next time.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The folder of a checkpoint that scripts/make-checkpoint.mjs makes with these options. */
export async function madeCheckpoint(name: string, options: readonly string[]): Promise<string> {
  const dir = join(tmpdir(), "spillway-examples", name);
  if (existsSync(join(dir, "config.json"))) return dir; // written last, so the rest is there too
  console.log(`making a checkpoint in ${dir}; delete it when you are done`);
  const child = spawn(process.execPath, ["scripts/make-checkpoint.mjs", dir, ...options], {
    stdio: "inherit",
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject).on("close", resolve);
  });
  if (code !== 0) throw new Error(`the checkpoint could not be made (exit code ${code})`);
  return dir;
}

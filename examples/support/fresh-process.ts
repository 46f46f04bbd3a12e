// Memory is only comparable between processes that have done nothing else before: runs this example again as a child.
import { spawn } from "node:child_process";

/** Starts this program once more with `argv` and returns what it reports with {@link report}. */
export async function inFreshProcess<T>(argv: readonly string[]): Promise<T> {
  const child = spawn(process.execPath, [process.argv[1] ?? "", ...argv], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    output += chunk;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject).on("close", resolve);
  });
  if (code !== 0) throw new Error(`the run with ${argv.join(" ")} failed (exit code ${code})`);
  return JSON.parse(output) as T;
}

/** In the child: hands a result to the parent. */
export function report(result: unknown): void {
  process.stdout.write(JSON.stringify(result));
}

/** Bytes as MiB, aligned. */
export function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`.padStart(10);
}

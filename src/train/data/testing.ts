// For the tests of this folder only: files that go away, rows in memory, and a tokenizer whose ids are easy to read.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "../../base/errors.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import type { RowTokenizer } from "./encode.ts";
import type { RowGroup } from "./files/row-file.ts";
import type { Row } from "./row.ts";
import type { RowSource } from "./source.ts";

/** A folder of the project's fixtures. */
export const FIXTURES = join(import.meta.dirname, "../../../test/fixtures");

/** A file that is removed when the running test ends. */
export function temporaryFile(content: string | Uint8Array, name = "rows.jsonl"): string {
  const path = join(temporaryFolder(), name);
  writeFileSync(path, content);
  return path;
}

/** One JSON object a line. */
export function jsonl(rows: readonly unknown[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

/** The end token of {@link numbers}. */
export const END = 0;

/** "5 6 7" is [5, 6, 7]. Ends with 0; has no chat template. */
export const numbers: RowTokenizer = {
  eos_token_ids: [END],
  encode: (text) => (text.trim() === "" ? [] : text.trim().split(/\s+/).map(Number)),
  apply_chat_template: () => {
    throw new ConfigError("no template");
  },
};

/** Texts as a dataset, in groups if sizes are given. Counts how often each row is read. */
export function rowsOf(
  texts: readonly string[],
  groups?: readonly RowGroup[],
): RowSource & { readonly reads: Map<number, number> } {
  const reads = new Map<number, number>();
  return {
    rows: texts.length,
    bytes: texts.join("").length,
    groups,
    reads,
    unused: new Map(),
    look: async (row): Promise<Row> => ({ kind: "text", text: texts[row]! }),
    read: async (row): Promise<Row> => {
      reads.set(row, (reads.get(row) ?? 0) + 1);
      return { kind: "text", text: texts[row]! };
    },
    locate: async (row) => `memory: row ${row}`,
    close: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** Everything an async iterable gives. */
export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

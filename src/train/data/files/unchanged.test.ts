import { appendFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { IoError } from "../../../base/errors.ts";
import { rejection, temporaryFolder } from "../../../formats/testing.ts";
import { openDataRows } from "../source.ts";

const row = (i: number) => JSON.stringify({ text: `row number ${String(i).padStart(4, "0")}` });
const ROWS = Array.from({ length: 200 }, (_, i) => row(i));
const FORMATS = { "rows.jsonl": `${ROWS.join("\n")}\n`, "rows.json": `[${ROWS.join(",\n")}]` };

describe.each(Object.entries(FORMATS))("%s", (name, text) => {
  function made(): string {
    const path = join(temporaryFolder(), name);
    writeFileSync(path, text);
    return path;
  }

  /** Reads the rows once, and resolves to the error that came of it. */
  async function reading(path: string, change: () => void): Promise<unknown> {
    await using rows = await openDataRows(path);
    await rows.read(0);
    change();
    return await rejection(
      (async () => {
        for (let i = 0; i < rows.rows; i++) await rows.read(i);
      })(),
    );
  }

  test.each<[string, (path: string) => void]>([
    ["rows appended", (path) => appendFileSync(path, ROWS.join("\n"))],
    ["a row edited, of the same size", (path) => writeFileSync(path, text.replace("0150", "9999"))],
    ["a row that is none any more", (path) => writeFileSync(path, text.replaceAll('{"text"', '{"next"'))],
    ["cut short", (path) => writeFileSync(path, text.slice(0, text.length / 4))],
    ["emptied", (path) => writeFileSync(path, "")],
  ])(
    "%s while it is read: an error that names the file, before its rows are through",
    async (_what, change) => {
      const path = made();
      const error = await reading(path, () => change(path));
      expect(error).toBeInstanceOf(IoError);
      expect((error as IoError).path).toBe(path);
      expect((error as IoError).message).toMatch(/changed while its rows are in use/);
    },
  );

  test("another file in its place: the one that was opened is read to its end", async () => {
    const path = made();
    await using rows = await openDataRows(path);
    writeFileSync(`${path}.new`, "");
    renameSync(`${path}.new`, path);
    for (let i = 0; i < rows.rows; i++) expect(await rows.read(i)).toMatchObject(JSON.parse(row(i)));
  });
});

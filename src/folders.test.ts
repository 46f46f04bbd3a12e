// The folders of src as docs/architecture.md describes them, compared with what the files import and export.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { describe, expect, test } from "vitest";

const src = import.meta.dirname;
const page = readFileSync(join(src, "../docs/architecture.md"), "utf8");

const sources = new Map(
  readdirSync(src, { recursive: true, encoding: "utf8" })
    .map((file) => file.replaceAll("\\", "/"))
    .filter((file) => file.endsWith(".ts") && !/\.(test|d)\.ts$/.test(file))
    .filter((file) => !/(^|[-./])testing[-.\w]*\.ts$/.test(file))
    .map((file) => [file, readFileSync(join(src, file), "utf8")]),
);

const importsOf = (file: string): string[] =>
  [...(sources.get(file) as string).matchAll(/(?:from|import\()\s*"(\.[^"?]+)/g)]
    .map(([, path]) => normalize(join(dirname(file), path as string)).replaceAll("\\", "/"))
    .filter((path) => sources.has(path));

const folderOf = (file: string) => file.split("/")[0] as string;

/** The page's table: what each folder imports. */
const table = new Map(
  [...page.matchAll(/^\| `(\w+)` +\|[^|]+\| *([\w, ]*?) *\|$/gm)].map(([, folder, list]) => [
    folder as string,
    (list as string).split(", ").filter(Boolean),
  ]),
);

describe("folders", () => {
  test("all are in the table, in an order in which none imports one below it", () => {
    const folders = new Set([...sources.keys()].filter((file) => file.includes("/")).map(folderOf));
    expect([...table.keys()].toSorted()).toEqual([...folders].toSorted());
    const order = [...table.keys()];
    for (const [folder, imported] of table)
      for (const other of imported)
        expect(order.indexOf(other), `${folder} -> ${other}`).toBeLessThan(order.indexOf(folder));
  });

  test.each([...table])("%s imports what the table says", (folder, imported) => {
    const found = new Set<string>();
    for (const file of sources.keys())
      if (folderOf(file) === folder) for (const target of importsOf(file)) found.add(folderOf(target));
    found.delete(folder);
    expect([...found].toSorted()).toEqual([...imported].toSorted());
  });

  test("none holds more than sixteen files", () => {
    const counts = new Map<string, number>();
    for (const file of sources.keys()) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
    for (const [folder, count] of counts) expect(count, folder).toBeLessThanOrEqual(16);
  });
});

test("no files import one another in a circle, types included", () => {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    if (done.has(file)) return;
    expect(path, `${path.slice(path.indexOf(file)).join(" -> ")} -> ${file}`).not.toContain(file);
    for (const next of importsOf(file)) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of sources.keys()) visit(file, []);
});

test("no exported name is declared twice", () => {
  const where = new Map<string, string>();
  const DECLARED =
    /^export\s+(?:abstract\s+)?(?:async\s+)?(?:class|function\*?|interface|type|const|enum)\s+([\w$]+)/gm;
  for (const [file, text] of sources)
    for (const [, name] of text.matchAll(DECLARED)) {
      expect(
        where.get(name as string) ?? file,
        `${name} is in ${file} and ${where.get(name as string)}`,
      ).toBe(file);
      where.set(name as string, file);
    }
});

test("native code is called by the backend alone", () => {
  for (const [file, text] of sources)
    if (folderOf(file) !== "backend")
      expect(text, file).not.toMatch(/\bnative\.ggml_|\blibrary\(\)\.native|from "koffi"/);
});

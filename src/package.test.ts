// What package.json promises to those who install the package: its pages lead to files that it brings, nothing has to be
// compiled where optional dependencies are left out, and nothing runs when it is installed.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");
const PACKAGE = JSON.parse(read("package.json")) as {
  files: string[];
  scripts: Record<string, string>;
};

/** Whether a file or folder of the repository goes into the package. */
const packed = (path: string) =>
  PACKAGE.files.some((entry) => path === entry || path.startsWith(`${entry}/`)) || path === "package.json";

describe("the pages in the package link only to what is in it", () => {
  const pages = [
    "README.md",
    "CHANGELOG.md",
    ...readdirSync(join(ROOT, "docs")).map((name) => `docs/${name}`),
  ];
  test.each(pages)("%s", (page) => {
    expect(packed(page)).toBe(true);
    const links = [...read(page).matchAll(/\]\(([^)#\s]+)/g)].map((match) => match[1] as string);
    const outside = links
      .filter((link) => !link.includes("://"))
      .filter((link) => !packed(posix.join(posix.dirname(page), link)));
    expect(outside).toEqual([]);
  });
});

test("no dependency runs a script when it is installed, unless it is optional", () => {
  const { packages } = JSON.parse(read("package-lock.json")) as {
    packages: Record<string, { dev?: boolean; optional?: boolean; hasInstallScript?: boolean }>;
  };
  const needed = Object.entries(packages).filter(([, one]) => !one.dev && !one.optional);
  expect(needed.length).toBeGreaterThan(3);
  expect(needed.filter(([, one]) => one.hasInstallScript).map(([name]) => name)).toEqual([]);
});

test("the package itself has no script that is run when it is installed", () => {
  for (const name of ["preinstall", "install", "postinstall"])
    expect(PACKAGE.scripts).not.toHaveProperty(name);
});

// Holds README.md and docs/ to the program: options, commands, support table, links, and the messages they quote.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DTYPES } from "../backend/ggml/dtypes.ts";
import { FAMILIES } from "../models/families.ts";
import { KV_DTYPES } from "../runtime/state/kv-cache.ts";
import { call, PLAIN, TINY } from "./testing.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");
const README = read("README.md");
const OFFLOADING = read("docs/offloading.md");
const TROUBLE = read("docs/troubleshooting.md");
const PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  ...readdirSync(join(ROOT, "docs")).map((name) => `docs/${name}`),
];

describe("README", () => {
  test("names every option that places a model", async () => {
    const { stdout } = await call(["inspect", "--help"]);
    const options = [...stdout.matchAll(/^ {2}(--[a-z-]+)/gm)].map((match) => match[1] as string);
    expect(options.length).toBeGreaterThan(10);
    for (const option of options) expect(README + OFFLOADING).toContain(option);
  });

  test("names every command", async () => {
    const { stdout } = await call(["--help"]);
    const commands = [...stdout.matchAll(/^ {2}([a-z]+) \[/gm)].map((match) => match[1]);
    expect(commands).toContain("run");
    for (const command of commands)
      if (command !== "help") expect(README).toMatch(new RegExp(`^\\| \`${command}\` +\\|`, "m"));
  });

  test("lists the families and types there are", () => {
    const row = (name: string) => new RegExp(`^\\| ${name} +\\| (.*)$`, "m").exec(README)?.[1] ?? "";
    const families = [...row("families").matchAll(/`([a-z0-9_]+)`/g)].map((match) => match[1]);
    expect(families).toEqual(FAMILIES.map((family) => family.model_type));
    for (const dtype of ["f32", "f16", "bf16"] as const)
      expect(row("weights")).toContain(DTYPES[dtype].torch);
    for (const dtype of KV_DTYPES) expect(row("KV cache")).toContain(DTYPES[dtype].torch);
  });
});

describe("links", () => {
  test.each(PAGES)("of %s lead somewhere", (page) => {
    const links = [...read(page).matchAll(/\]\(([^)#]+)\)/g)].map((match) => match[1] as string);
    for (const link of links.filter((l) => !l.includes("://"))) {
      expect(existsSync(join(ROOT, dirname(page), link)), `${page} -> ${link}`).toBe(true);
    }
  });
});

describe("docs/troubleshooting.md quotes what is really said", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "spillway-docs-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  function expectQuoted(stderr: string): void {
    expect(stderr).toMatch(/^error: /);
    expect(essence(TROUBLE)).toContain(essence(stderr));
  }

  /** Without what depends on the machine and on the day: paths and numbers. */
  function essence(text: string): string {
    return text
      .replaceAll(folder, ".")
      .replace(/\d+(\.\d+)? ?([KMG]i?B|bytes)?/g, "N")
      .trim();
  }

  const run = ["run", TINY, "hi", "--quiet", ...PLAIN];
  const split = { "": "cpu", "model.layers.0.mlp.up_proj": "disk", "model.layers.0.mlp.down_proj": "cpu" };
  const half = { "model.layers.0": "disk", lm_head: "cpu" };

  test.each([
    ["too small a budget", [...run, "--cpu", "100KiB"]],
    ["two copies", [...run, "--cpu", "1500KiB", "--context-length", "32", "--no-low-cpu-mem-usage"]],
    ["a unit on two tiers", [...run, "--device-map", JSON.stringify(split)]],
    ["a mistyped module", [...run, "--device-map", '{"model.layer.0":"cpu"}']],
    ["a map with gaps", [...run, "--device-map", JSON.stringify(half)]],
    ["a GPU that is not used", [...run, "--device-map", "gpu"]],
    ["no folder for a copy", [...run, "--dtype", "float16", "--device-map", "disk"]],
  ])("%s", async (_name, argv) => {
    const { stderr } = await call(argv);
    expectQuoted(stderr);
  });

  test("an incomplete download", async () => {
    const model = join(folder, "model");
    await cp(TINY, model, { recursive: true });
    await truncate(join(model, "model.safetensors"), 700_000);
    const { stderr } = await call(["run", model, "hi", ...PLAIN]);
    expectQuoted(stderr);
  });

  test("missing tensors", async () => {
    const model = join(folder, "model-with-a-layer-more");
    await cp(TINY, model, { recursive: true });
    const config = JSON.parse(readFileSync(join(TINY, "config.json"), "utf8")) as object;
    await writeFile(join(model, "config.json"), JSON.stringify({ ...config, num_hidden_layers: 4 }));
    const { stderr } = await call(["run", model, "hi", ...PLAIN]);
    const [first = "", second = ""] = stderr.replace(relative(folder, model), "model").split("\n");
    expectQuoted(`${first}\n${second}`);
  });

  test("a file in place of the offload folder", async () => {
    const file = join(folder, "offload");
    await writeFile(file, "");
    const { stderr } = await call([
      ...run,
      "--dtype",
      "float16",
      "--device-map",
      "disk",
      "--offload-folder",
      file,
    ]);
    expectQuoted(stderr);
  });
});

import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { needsPosix, testUnless } from "../../base/testing-unproven.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import {
  discover,
  GGML_VERSION,
  inspectFolder,
  installCommand,
  PACKAGE_VERSION,
  packagesFor,
} from "./discover.ts";

/** A folder with empty files of these names. */
function folderOf(...names: string[]): string {
  const dir = temporaryFolder();
  for (const name of names) writeFileSync(join(dir, name), "");
  return dir;
}

/** Empty libraries where a package of them would be. */
function plant(dir: string, name: string): void {
  const bins = join(dir, "node_modules", name, "bins", "x");
  mkdirSync(bins, { recursive: true });
  writeFileSync(join(bins, "..", "..", "package.json"), "{}");
  for (const file of ["libggml-base.so", "libggml.so", "libggml-cpu.so"]) writeFileSync(join(bins, file), "");
}

/** What is found in a folder, as file names. */
function found(...names: string[]) {
  const folder = inspectFolder(folderOf(...names), "test");
  if (!folder) return undefined;
  const { dir, base, registry, cpu, gpu } = folder;
  const name = (path: string) => path.slice(dir.length + 1);
  return {
    base: name(base),
    registry: name(registry),
    cpu: cpu.map(name),
    gpu: Object.fromEntries(Object.entries(gpu).map(([backend, path]) => [backend, name(path)])),
  };
}

describe("what a folder holds", () => {
  test("Linux, as the npm packages have it: version in the registry's name, one CPU backend per instruction set", () => {
    expect(
      found(
        "libggml-base.so",
        "libggml.v0.5.0.so",
        "libggml-cpu-zen4.so",
        "libggml-cpu-haswell.so",
        "libggml-cpu-sse42.so",
        "libggml-vulkan.so",
        "libllama.v0.5.0.so",
        "llama-addon.node",
        "_nlcBuildMetadata.json",
      ),
    ).toEqual({
      base: "libggml-base.so",
      registry: "libggml.v0.5.0.so",
      cpu: ["libggml-cpu-haswell.so", "libggml-cpu-sse42.so", "libggml-cpu-zen4.so"],
      gpu: { vulkan: "libggml-vulkan.so" },
    });
  });

  test("a build of one's own: versions behind the ending, one CPU backend", () => {
    expect(found("libggml-base.so.0.25.1", "libggml.so.0", "libggml-cpu.so", "libggml-cuda.so")).toEqual({
      base: "libggml-base.so.0.25.1",
      registry: "libggml.so.0",
      cpu: ["libggml-cpu.so"],
      gpu: { cuda: "libggml-cuda.so" },
    });
  });

  test("ARM: the instruction set has dots in it", () => {
    expect(found("libggml-base.so", "libggml.so", "libggml-cpu-armv8.2_1.so")?.cpu).toEqual([
      "libggml-cpu-armv8.2_1.so",
    ]);
  });

  test("Windows", () => {
    expect(found("ggml-base.dll", "ggml.dll", "ggml-cpu-x64.dll", "ggml-cuda.dll", "llama.dll")).toEqual({
      base: "ggml-base.dll",
      registry: "ggml.dll",
      cpu: ["ggml-cpu-x64.dll"],
      gpu: { cuda: "ggml-cuda.dll" },
    });
  });

  test("macOS", () => {
    expect(found("libggml-base.dylib", "libggml.dylib", "libggml-cpu.dylib", "libggml-metal.dylib")).toEqual({
      base: "libggml-base.dylib",
      registry: "libggml.dylib",
      cpu: ["libggml-cpu.dylib"],
      gpu: { metal: "libggml-metal.dylib" },
    });
  });

  test("backends that nothing here calls are left alone", () => {
    expect(
      found("libggml-base.so", "libggml.so", "libggml-cpu.so", "libggml-rpc.so", "libggml-blas.so")?.gpu,
    ).toEqual({});
  });

  test.each([
    ["nothing", []],
    ["no base", ["libggml.so", "libggml-cpu.so"]],
    ["no registry", ["libggml-base.so", "libggml-cpu.so"]],
    ["other people's libraries", ["libllama.so", "libggml-base.so.txt", "myggml.so"]],
  ])("%s: not a folder of the library", (_what, names) => {
    expect(found(...names)).toBeUndefined();
  });

  test("a folder that is not there", () => {
    expect(inspectFolder(join(temporaryFolder(), "absent"), "test")).toBeUndefined();
  });
});

describe("where it is looked for", () => {
  test("SPILLWAY_GGML_DIR alone counts where it is set, even if it is wrong", () => {
    const dir = folderOf("libggml-base.so", "libggml.so", "libggml-cpu.so");
    expect(discover({ SPILLWAY_GGML_DIR: dir }).folders).toMatchObject([{ source: "SPILLWAY_GGML_DIR" }]);
    expect(discover({ SPILLWAY_GGML_DIR: temporaryFolder() })).toEqual({ folders: [], refused: [] });
  });

  test("a relative SPILLWAY_GGML_DIR would mean another folder in every working directory", () => {
    const { folders, refused } = discover({ SPILLWAY_GGML_DIR: "libs" });
    expect(folders).toEqual([]);
    expect(refused).toMatchObject([{ dir: "libs", reason: expect.stringContaining("name an absolute one") }]);
  });

  testUnless(needsPosix("modes of files"))("what others may write is left out, with the reason", () => {
    const dir = folderOf("libggml-base.so", "libggml.so", "libggml-cpu.so");
    chmodSync(join(dir, "libggml-cpu.so"), 0o666);
    const { folders, refused } = discover({ SPILLWAY_GGML_DIR: dir });
    expect(folders).toEqual([]);
    expect(refused[0]?.reason).toMatch(/libggml-cpu\.so may be written by everybody/);
  });

  test("the working directory and those above it are not looked at, whatever is planted there", () => {
    const dir = temporaryFolder();
    for (const name of packagesFor()) plant(dir, name);
    mkdirSync(join(dir, "model"));
    const before = process.cwd();
    const expected = discover({});
    process.chdir(join(dir, "model"));
    try {
      expect(discover({})).toEqual(expected);
    } finally {
      process.chdir(before);
    }
  });

  testUnless(packagesFor().length > 0 ? undefined : "no package of the library is for this platform")(
    "the place of the package counts: folders above it, nearest first",
    () => {
      const dir = temporaryFolder();
      const name = packagesFor()[0] as string;
      plant(dir, name);
      const place = pathToFileURL(join(dir, "app", "dist", "index.js")).href;
      expect(discover({}, place).folders).toMatchObject([{ source: name }]);
      plant(join(dir, "app"), name);
      expect(discover({}, place).folders[0]?.dir).toContain(join("app", "node_modules"));
    },
  );

  test("else the packages of this platform, of which one is installed here", () => {
    const { folders } = discover({});
    expect(folders.length).toBeGreaterThan(0);
    for (const { source, cpu } of folders) {
      expect(packagesFor()).toContain(source);
      expect(cpu.length).toBeGreaterThan(0);
    }
  });

  test("the most capable package comes first", () => {
    expect(packagesFor("linux", "x64")).toEqual([
      "@node-llama-cpp/linux-x64-cuda",
      "@node-llama-cpp/linux-x64-vulkan",
      "@node-llama-cpp/linux-x64",
    ]);
    expect(packagesFor("sunos", "sparc")).toEqual([]);
  });

  test("the command that installs it names an exact version", () => {
    const expected = packagesFor().length > 0 ? `@${PACKAGE_VERSION}` : GGML_VERSION;
    expect(installCommand()).toContain(expected);
  });
});

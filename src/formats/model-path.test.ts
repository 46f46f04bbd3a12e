import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError, UnsupportedError } from "../base/errors.ts";
import { cannotProve } from "../base/testing-unproven.ts";
import { requireAdapterFolder, requireModelFolder } from "./model-path.ts";
import { fixture, rejection, temporaryFolder } from "./testing.ts";

const LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 35\n";
const PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>";

/** A folder with these files: contents by name; a path with folders makes them. */
function folder(files: Readonly<Record<string, string>>): string {
  const dir = temporaryFolder();
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), content);
  }
  return dir;
}

const quantized = (settings: object) =>
  JSON.stringify({ model_type: "llama", quantization_config: settings });

describe("a model's path", () => {
  test("of a model is taken, sharded or not, and through a link", async () => {
    await requireModelFolder(fixture("llama"));
    await requireModelFolder(fixture("llama-tied-sharded"));
    const link = join(temporaryFolder(), "link");
    symlinkSync(fixture("llama"), link);
    await requireModelFolder(link);
  });

  test.each<[string, Record<string, string>, string, typeof CheckpointError | typeof UnsupportedError]>([
    ["an empty folder", {}, "is empty; give the directory that holds config.json", CheckpointError],
    [
      "a folder with a GGUF file",
      { "m-Q4_K_M.gguf": "GGUF" },
      "a GGUF file (m-Q4_K_M.gguf)",
      UnsupportedError,
    ],
    [
      "a folder with only an adapter",
      { "adapter_config.json": '{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": "" },
      "holds an adapter of org/base, not a model",
      CheckpointError,
    ],
    [
      "only pickled weights",
      { "config.json": "{}", "pytorch_model.bin": "PK" },
      "has its weights as a PyTorch pickle only (pytorch_model.bin); pickles can run code",
      UnsupportedError,
    ],
    [
      "Meta's original files",
      { "params.json": "{}", "consolidated.00.pth": "PK" },
      "a PyTorch pickle (consolidated.00.pth)",
      UnsupportedError,
    ],
    [
      "a config with a GGUF file",
      { "config.json": "{}", "m.gguf": "GGUF" },
      "has its weights as a GGUF file only",
      UnsupportedError,
    ],
    [
      "weights that are a pointer",
      { "config.json": "{}", "model.safetensors": LFS },
      "is a Git LFS pointer",
      CheckpointError,
    ],
    [
      "a tokenizer that is a pointer",
      { "config.json": "{}", "model.safetensors": "x", "tokenizer.json": LFS },
      "tokenizer.json: is a Git LFS pointer",
      CheckpointError,
    ],
    [
      "a config that is a web page",
      { "config.json": PAGE, "model.safetensors": "x" },
      "config.json: is a web page",
      CheckpointError,
    ],
    [
      "weights that are a web page",
      { "config.json": "{}", "model.safetensors": `\n ${PAGE}` },
      "model.safetensors: is a web page",
      CheckpointError,
    ],
    [
      "weights without a config",
      { "model.safetensors": "x" },
      "config.json: does not exist: it says which model",
      CheckpointError,
    ],
    [
      "an unfinished download",
      { "config.json": "{}", "model.safetensors.incomplete": "x" },
      "holds an unfinished download",
      CheckpointError,
    ],
    [
      "a folder around the model",
      { "m/config.json": "{}", "m/model.safetensors": "x" },
      "holds no model itself, but",
      CheckpointError,
    ],
    ["a diffusion pipeline", { "model_index.json": "{}" }, "holds a diffusion pipeline", UnsupportedError],
    ["other files", { "a.md": "", "b.py": "" }, "holds no model: it has a.md and b.py", CheckpointError],
  ])("of %s says so", async (_, files, message, kind) => {
    const error = await rejection(requireModelFolder(folder(files)));
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toContain(message);
  });

  test.each([
    [{ quant_method: "bitsandbytes", load_in_4bit: true }, "bitsandbytes, 4 bits"],
    [{ quant_method: "gptq", bits: 4 }, "GPTQ, 4 bits"],
    [{ quant_method: "awq", bits: 4 }, "AWQ, 4 bits"],
    [{ quant_method: "fp8", weight_block_size: [128, 128] }, "block-scaled FP8"],
    [{ quant_method: "mxfp4" }, "MXFP4"],
    [{ quant_method: "\u001bnew" }, '"\\u001bnew"'],
  ])("of a model quantized by %j names the scheme and what to take instead", async (settings, name) => {
    const dir = folder({ "config.json": quantized(settings), "model.safetensors": "x" });
    const error = (await rejection(requireModelFolder(dir))) as Error;
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(error.message).toContain(`the weights are quantized (${name})`);
    expect(error.message).toContain("base_model");
  });

  test("of a wrapped or an MLX model that is quantized says so too", async () => {
    const inside = JSON.stringify({ text_config: { quantization_config: { quant_method: "awq" } } });
    await expect(
      requireModelFolder(folder({ "config.json": inside, "model.safetensors": "x" })),
    ).rejects.toThrow("quantized (AWQ)");
    const mlx = JSON.stringify({ quantization: { group_size: 64, bits: 4 } });
    await expect(
      requireModelFolder(folder({ "config.json": mlx, "model.safetensors": "x" })),
    ).rejects.toThrow("quantized (MLX, 4 bits)");
  });

  test("in the Hub's cache leads to the snapshot, from the cache's root, its hub folder and the model's own", async () => {
    const root = folder({
      "hub/models--org--name/refs/main": "abc",
      "hub/models--org--name/snapshots/abc/config.json": "{}",
    });
    const snapshot = join(root, "hub/models--org--name/snapshots/abc");
    for (const dir of [root, join(root, "hub"), join(root, "hub/models--org--name")]) {
      const error = (await rejection(requireModelFolder(dir))) as Error;
      expect(error.message).toContain("is the Hub's cache");
      expect(error.message).toContain(snapshot);
    }
    await expect(requireModelFolder(join(root, "hub"))).rejects.toThrow("org/name");
  });

  test("through links that lead nowhere names the link and its target", async () => {
    const dir = folder({ "config.json": "{}" });
    symlinkSync("../../blobs/0123", join(dir, "model.safetensors"));
    await expect(requireModelFolder(dir)).rejects.toThrow(
      `${join(dir, "model.safetensors")}: is a link to ../../blobs/0123, where nothing is`,
    );
    const link = join(dir, "gone");
    symlinkSync("/nowhere/at/all", link);
    await expect(requireModelFolder(link)).rejects.toThrow("is a link to /nowhere/at/all, where nothing is");
  });

  test("of a file says what the file is, by its content before its name", async () => {
    const dir = folder({
      "m.gguf": "GGUF\u0003",
      "x.safetensors": "\u0008",
      "page.gguf": PAGE,
      "p.bin": "PK",
      "renamed.safetensors": "GGUF\u0003",
      "notes.txt": "hello",
    });
    const said = async (name: string) =>
      ((await rejection(requireModelFolder(join(dir, name)))) as Error).message;
    expect(await said("m.gguf")).toContain("is a GGUF file; GGUF is not read yet");
    expect(await said("renamed.safetensors")).toContain("is a GGUF file");
    expect(await said("page.gguf")).toContain("is a web page");
    expect(await said("p.bin")).toContain("pickles can run code");
    expect(await said("x.safetensors")).toContain("holds weights, but which model they belong to");
    expect(await said("notes.txt")).toContain("is a file, not a folder");
  });

  test("that does not exist is explained by what it looks like", async () => {
    const said = async (path: string) => ((await rejection(requireModelFolder(path))) as Error).message;
    expect(await said("./nowhere")).toContain("does not exist; give the directory");
    expect(await said("org/name")).toContain("hf download org/name --local-dir DIR");
    expect(await said("org/name:Q4_K_M")).toContain("names a quantized GGUF on the Hub");
    expect(await said("https://example.com/org/name")).toContain("is an address");
  });

  test("that is no path is a ConfigError", async () => {
    for (const odd of [undefined, null, 5, "", {}, "a\0b"])
      expect(await rejection(requireModelFolder(odd))).toBeInstanceOf(ConfigError);
  });

  test("of a pipe is refused without waiting for it", async () => {
    if (process.platform === "win32") cannotProve("no named pipes in folders");
    const dir = folder({ "config.json": "{}" });
    execFileSync("mkfifo", [join(dir, "pipe"), join(dir, "model.safetensors")]);
    await expect(requireModelFolder(join(dir, "pipe"))).rejects.toThrow("is a pipe or a device");
    await requireModelFolder(dir); // whoever reads the weights refuses the pipe in their place
  });
});

describe("an adapter's path", () => {
  test("of a whole model, an empty folder or an unfinished download says so", async () => {
    await expect(requireAdapterFolder(fixture("llama"))).rejects.toThrow(
      "holds a whole model, not an adapter",
    );
    await expect(requireAdapterFolder(temporaryFolder())).rejects.toThrow(
      "holds no adapter; name the folder",
    );
    await expect(
      requireAdapterFolder(folder({ "adapter_config.json": "{}", "adapter_model.safetensors": LFS })),
    ).rejects.toThrow("is a Git LFS pointer");
    await expect(requireAdapterFolder(join(fixture("llama"), "config.json"))).rejects.toThrow(
      "is not a folder",
    );
    await expect(requireAdapterFolder("nowhere")).rejects.toThrow("nowhere: does not exist; name the folder");
    expect(await rejection(requireAdapterFolder(5))).toBeInstanceOf(ConfigError);
  });

  test("of an adapter is taken", async () => {
    const dir = temporaryFolder();
    cpSync(fixture("llama"), dir, { recursive: true });
    rmSync(join(dir, "config.json"));
    writeFileSync(join(dir, "adapter_config.json"), "{}");
    await requireAdapterFolder(dir);
  });
});

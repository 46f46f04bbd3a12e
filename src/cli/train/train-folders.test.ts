// What `spillway train` writes into, and what it refuses to: inputs under other names, folders of others, a second run.
import { cpSync, existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { temporaryFolder } from "../../formats/testing.ts";
import { lockFolder } from "../../memory/locks/file-lock.ts";
import { call, PLAIN, TINY } from "../testing.ts";

let dir: string;
let data: string;
const at = (name: string) => join(dir, name);
beforeEach(() => {
  dir = temporaryFolder();
  data = at("rows.jsonl");
  const rows = Array.from({ length: 12 }, (_, i) =>
    JSON.stringify({ text: `the quick brown fox ${i} jumps over` }),
  );
  writeFileSync(data, `${rows.join("\n")}\n`);
});

const train = (model: string, ...more: string[]) =>
  call([
    "train",
    model,
    "--data",
    data,
    "--max-length",
    "32",
    "--quiet",
    "--cpu",
    "64MiB",
    ...PLAIN,
    ...more,
  ]);

test("the base is not overwritten under another name, the data not by the report", async () => {
  cpSync(TINY, at("base"), { recursive: true });
  symlinkSync("base", at("link"));
  const weights = readFileSync(at("base/model.safetensors"));
  for (const more of [
    ["--output", at("out"), "--export", at("link")],
    ["--output", at("link"), "--no-export"],
    ["--output", at("out"), "--no-export", "--report", data],
  ])
    expect((await train(at("base"), "--max-steps", "1", ...more)).code, more.join(" ")).toBe(2);
  expect(readFileSync(at("base/model.safetensors")).equals(weights)).toBe(true);
  expect(existsSync(at("out/log.jsonl"))).toBe(false);
});

test("nothing is written into the folders that are read, however deep", async () => {
  cpSync(TINY, at("base"), { recursive: true });
  symlinkSync("base", at("link"));
  const before = readdirSync(at("base"));
  for (const more of [
    ["--output", at("base/run")],
    ["--output", at("link/a/b")],
    ["--output", at("out"), "--export", at("base/result")],
    ["--output", at("out"), "--offload-folder", at("link/offload")],
  ]) {
    const { code, stderr } = await train(at("base"), "--max-steps", "1", ...more);
    expect([code, stderr], more.join(" ")).toEqual([2, expect.stringMatching(/is in .*base|is in .*link/)]);
  }
  expect(readdirSync(at("base"))).toEqual(before);
});

test("an export with a template is the run's own, and is made again by its next part", async () => {
  writeFileSync(at("chat.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}");
  const run = ["--output", at("out"), "--chat-template", at("chat.jinja"), "--lora-r", "2"];
  expect((await train(TINY, "--max-steps", "1", ...run)).code).toBe(0);
  expect(readFileSync(at("out/adapter/chat_template.jinja"), "utf8")).toMatch(/m\.content/);
  const again = await train(TINY, "--max-steps", "2", "--resume", "--learning-rate", "0.5", ...run);
  expect(again.code).toBe(0);
  expect(again.stderr).toMatch(/resuming at step 2 of 2.*changed: learning_rate was 0\.00005 and is 0\.5/);
});

test("a folder with another model is not exported into; the run's own export is replaced", async () => {
  cpSync(TINY, at("precious"), { recursive: true });
  const refused = await train(TINY, "--max-steps", "1", "--output", at("out"), "--export", at("precious"));
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringMatching(/precious is not empty/)]);
  const run = ["--output", at("out"), "--export", at("result")];
  expect((await train(TINY, "--max-steps", "1", ...run)).code).toBe(0);
  const first = readFileSync(at("result/model.safetensors"));
  const again = await train(TINY, "--max-steps", "2", "--resume", ...run);
  expect(again.stderr).toMatch(/resuming at step 2 of 2, from .*checkpoint-1/);
  expect(again.code).toBe(0);
  expect(readFileSync(at("result/model.safetensors")).equals(first)).toBe(false);
  // A file that the run did not put there makes it another folder.
  writeFileSync(at("result/chat_template.jinja"), "{{ messages }}");
  const foreign = await train(TINY, "--max-steps", "3", "--resume", ...run);
  expect([foreign.code, foreign.stderr]).toEqual([2, expect.stringMatching(/chat_template.jinja/)]);
});

test("what says that a folder is an adapter does not go into a model's", async () => {
  cpSync(TINY, at("both"), { recursive: true });
  writeFileSync(at("both/adapter_config.json"), "{}");
  expect((await train(at("both"), "--max-steps", "1", "--output", at("out"))).code).toBe(0);
  expect(readdirSync(at("out/model"))).not.toContain("adapter_config.json");
  expect(readdirSync(at("out/model"))).toEqual(expect.arrayContaining(["config.json", "tokenizer.json"]));
});

test("a second run in the same folder is refused, with the process that has it", async () => {
  const lock = await lockFolder(at("out"), "the output folder");
  const second = await train(TINY, "--max-steps", "1", "--output", at("out"));
  expect([second.code, second.stderr]).toEqual([
    1,
    expect.stringMatching(`in use by process ${process.pid}`),
  ]);
  await lock.release();
  expect((await train(TINY, "--max-steps", "1", "--output", at("out"), "--no-export")).code).toBe(0);
  expect(readdirSync(at("out"))).not.toContain(".spillway.lock");
});

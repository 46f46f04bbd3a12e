// Makes a checkpoint with random weights in the shape of a published model. The work is in src/formats/synthetic.ts.
//   node scripts/make-checkpoint.mjs DIR --preset llama-4gib --dtype bf16
import { parseArgs } from "node:util";

const OPTIONS = {
  preset: { type: "string" },
  family: { type: "string" },
  shape: { type: "string" },
  dtype: { type: "string" },
  layers: { type: "string" },
  seed: { type: "string" },
  "max-shard-bytes": { type: "string" },
  sparse: { type: "boolean" },
  tie: { type: "boolean" },
  help: { type: "boolean", short: "h" },
};

const usage = (presets) => `node scripts/make-checkpoint.mjs DIR --preset NAME [options]

  --preset NAME          ${presets}
  --family NAME          gpt2, llama or qwen2, with --shape instead of --preset
  --shape JSON           config.json values that replace the family's tiny ones
  --dtype NAME           f32, f16 or bf16 (default)
  --layers N             another number of layers
  --seed N               default 0; the same seed makes the same bytes
  --max-shard-bytes N    split the weights into files of at most N bytes
  --sparse, --no-sparse  weights are holes that read as zeros and take no disk
  --tie, --no-tie        whether the head shares the embedding's weights
`;

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = error?.code?.startsWith?.("ERR_PARSE_ARGS") ? 2 : 1;
}

async function main() {
  const { values, positionals } = parseArgs({
    options: OPTIONS,
    allowPositionals: true,
    allowNegative: true,
  });
  const { makeCheckpoint, PRESETS } = await synthetic();
  const help = usage(Object.keys(PRESETS).join(", "));
  if (values.help) {
    console.log(help);
    return 0;
  }
  const [dir] = positionals;
  if (positionals.length !== 1 || (values.preset && values.shape)) {
    console.error(help);
    return 2;
  }
  let shown = -1;
  const made = await makeCheckpoint(dir, {
    family: values.family,
    shape: values.preset ?? (values.shape && JSON.parse(values.shape)),
    dtype: values.dtype,
    layers: number(values.layers),
    seed: number(values.seed),
    max_shard_bytes: number(values["max-shard-bytes"]),
    sparse: values.sparse,
    tie_word_embeddings: values.tie,
    progress: (done, total) => {
      const percent = Math.floor((100 * done) / total);
      if (process.stderr.isTTY && percent !== shown) process.stderr.write(`\r${percent} %`);
      shown = percent;
    },
  });
  if (process.stderr.isTTY) process.stderr.write("\r");
  const gib = (made.bytes / 2 ** 30).toFixed(2);
  console.log(`${made.path}: ${made.parameters} parameters, ${gib} GiB in ${made.files.length} file(s)`);
  return 0;
}

/** The part of the build that makes checkpoints. */
async function synthetic() {
  try {
    return await import("../dist/synthetic.js");
  } catch (error) {
    if (error?.code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new Error("dist/synthetic.js is not there: run npm run build first", { cause: error });
  }
}

/** An option's number; what is not a number becomes NaN, which makeCheckpoint refuses with the option's name. */
function number(text) {
  return text === undefined ? undefined : text.trim() === "" ? Number.NaN : Number(text);
}

// Compiles the WebAssembly text of src/memory/packing into the TypeScript file that holds it. Needed after a change to it.
//   node scripts/build-wasm.mjs            writes the file
//   node scripts/build-wasm.mjs --check    fails if the file is not what would be written
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import openWabt from "wabt";

const FOLDER = new URL("../src/memory/packing/", import.meta.url);
const SOURCE = "bf16-12.wat";
const TARGET = "bf16-12.wasm.ts";
const LINE = 100;

async function compile() {
  const wabt = await openWabt();
  const module = wabt.parseWat(SOURCE, readFileSync(new URL(SOURCE, FOLDER), "utf8"));
  try {
    module.validate();
    return module.toBinary({}).buffer;
  } finally {
    module.destroy();
  }
}

function typescript(binary) {
  const lines = Buffer.from(binary)
    .toString("base64")
    .match(new RegExp(`.{1,${LINE}}`, "g"));
  return [
    `// ${binary.length} bytes of WebAssembly in base64, compiled from ${SOURCE} by scripts/build-wasm.mjs. Not to be edited.`,
    "",
    "export const BF16_12_WASM = [",
    ...lines.map((line) => `  "${line}",`),
    '].join("");',
    "",
  ].join("\n");
}

const { values } = parseArgs({ options: { check: { type: "boolean", default: false } } });
const target = new URL(TARGET, FOLDER);
const wanted = typescript(await compile());
if (!values.check) {
  writeFileSync(target, wanted);
} else if (readFileSync(target, "utf8") !== wanted) {
  process.stderr.write(`${TARGET} was not compiled from this ${SOURCE}: run node scripts/build-wasm.mjs\n`);
  process.exitCode = 1;
}

// Compiles the WebAssembly text of src into the TypeScript files that hold it. Needed after a change to it.
//   node scripts/build-wasm.mjs            writes the files
//   node scripts/build-wasm.mjs --check    fails if a file is not what would be written
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import openWabt from "wabt";

const SOURCES = new URL("../src/", import.meta.url);
/** Files of src, and the constant that holds what is compiled from each. */
const MODULES = [
  { source: "memory/packing/bf16-12.wat", target: "memory/packing/bf16-12.wasm.ts", name: "BF16_12_WASM" },
  {
    source: "train/optimizer/rules/adamw.wat",
    target: "train/optimizer/rules/adamw.wasm.ts",
    name: "ADAMW_WASM",
  },
];
const LINE = 100;

async function compile(source) {
  const wabt = await openWabt();
  const features = { threads: true }; // shared memories
  const module = wabt.parseWat(source, readFileSync(new URL(source, SOURCES), "utf8"), features);
  try {
    module.validate(features);
    return module.toBinary({}).buffer;
  } finally {
    module.destroy();
  }
}

function typescript(binary, { source, name }) {
  const lines = Buffer.from(binary)
    .toString("base64")
    .match(new RegExp(`.{1,${LINE}}`, "g"));
  return [
    `// ${binary.length} bytes of WebAssembly in base64, compiled from ${path.basename(source)} by scripts/build-wasm.mjs. Not to be edited.`,
    "",
    `export const ${name} = [`,
    ...lines.map((line) => `  "${line}",`),
    '].join("");',
    "",
  ].join("\n");
}

const { values } = parseArgs({ options: { check: { type: "boolean", default: false } } });
for (const module of MODULES) {
  const target = new URL(module.target, SOURCES);
  const wanted = typescript(await compile(module.source), module);
  if (!values.check) {
    writeFileSync(target, wanted);
  } else if (readFileSync(target, "utf8") !== wanted) {
    process.stderr.write(
      `${module.target} was not compiled from this ${module.source}: run node scripts/build-wasm.mjs\n`,
    );
    process.exitCode = 1;
  }
}

// Optimizer steps over states in RAM and on disk, held against what moving their bytes takes at best.
//   node bench/optimizer.mjs [--elements 33554432] [--repeats 9] [--threads N] [--folder DIR]
// Bytes count what a step must move: AdamW reads weights, gradient and both moments and writes all but the gradient, 28
// bytes per parameter. AdamW is compared with
//   passes   ggml's own element-wise operations over just those streams, each moved once, in place as AdamW does it: the
//            gradient is added to the weights, both moments are scaled. What is missing there is arithmetic.
//   add      c = a + b: 12 bytes counted, but the processor reads c as well before it writes it, so 16 are moved.
//   kernel   ggml's AdamW over everything in one graph. It takes a scalar root and a scalar division per element, which is
//            what bounds it on few cores, and no composition of ggml's other operations is faster by more than a sixth:
//            none has vector roots.
// AdamW is stepped by a compiled loop of our own (src/train/optimizer/rules/adamw.wat), the others by graphs of ggml.
// Runs take turns; those with states on disk come last, so that pages they leave to be written do not slow the others.
// The steps are not part of the public API: src is bundled into bench/.work first.
import { mkdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { rolldown } from "rolldown";
import { round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";

const { values } = parseArgs({
  options: {
    elements: { type: "string", default: String(32 * 2 ** 20) },
    repeats: { type: "string", default: "9" },
    threads: { type: "string", default: String(os.availableParallelism()) },
    folder: { type: "string", default: os.tmpdir() }, // of the state on disk
  },
});
const repeats = count(values, "repeats", 1);
const threads = count(values, "threads", 1);
/** Whole rows of 1024, so that one tensor holds them all. */
const elements = Math.ceil(count(values, "elements", 1) / 1024) * 1024;
const PARAMS = { lr: 1e-4, weight_decay: 0.01, step: 10 };

const inRepository = (/** @type {string} */ file) => fileURLToPath(new URL(`../${file}`, import.meta.url));

/** Bundles modules of src into a folder and imports them: they share what they share in src. */
async function importSources(/** @type {Record<string, string>} */ input) {
  const dir = path.join(inRepository("bench/.work"), `optimizer-${process.pid}`);
  await mkdir(dir, { recursive: true });
  try {
    const entries = Object.entries(input).map(([name, file]) => [name, inRepository(file)]);
    const bundle = await rolldown({
      input: Object.fromEntries(entries),
      platform: "node",
      external: ["koffi"],
    });
    await bundle.write({ dir, format: "esm", entryFileNames: "[name].mjs", chunkFileNames: "[name].mjs" });
    const modules = await Promise.all(
      Object.keys(input).map((name) => import(pathToFileURL(path.join(dir, `${name}.mjs`)).href)),
    );
    return Object.assign({}, ...modules);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const source = await importSources({
  device: "src/backend/ggml/device.ts",
  graph: "src/backend/ggml/graph.ts",
  ledger: "src/memory/ledger.ts",
  shared: "src/memory/shared-memory.ts",
  native: "src/memory/stores/native.ts",
  disk: "src/memory/stores/disk.ts",
  kernels: "src/backend/ggml/update-graph.ts",
  adamw: "src/train/optimizer/rules/adamw.ts",
  adam8bit: "src/train/optimizer/rules/adam8bit.ts",
  sgd: "src/train/optimizer/rules/sgd.ts",
  state: "src/train/optimizer/state.ts",
  updater: "src/train/optimizer/updater.ts",
  norm: "src/train/optimizer/gradient-norm.ts",
});

const ledger = new source.Ledger();
const cpu = source.Device.open(source.findDevice("cpu"), { threads });
const ram = new source.CpuStore({ memory: source.sharedMemory, ledger }); // as in training
const disk = await source.DiskStore.open({ folder: values.folder, ledger, memory: cpu.memory });

const gradient = { buffer: source.sharedMemory.allocate(elements * 4), offset: 0 };
const weights = cpu.memory.allocate(elements * 4);
for (const [buffer, scale] of /** @type {const} */ ([
  [gradient.buffer, 1e-3],
  [weights, 1],
])) {
  const view = new Float32Array(buffer.view());
  for (let i = 0; i < view.length; i++) view[i] = scale * Math.sin(i * 12.9898);
}

/** What AdamW is compared with. */
const ADAMW = "AdamW, RAM";
const PLAIN = {
  passes: "ggml passes in place over AdamW's bytes",
  add: "ggml_add, c = a + b",
  kernel: "ggml_opt_step_adamw, one graph",
};

/**
 * @typedef {object} Case
 * @property {string} name
 * @property {boolean} disk
 * @property {number} bytes moved per parameter
 * @property {() => Promise<unknown>} run
 * @property {() => Promise<unknown>} end
 * @property {number[]} seconds
 */
/** @type {Case[]} */
const cases = [];

/** A graph over everything, built once. */
function plain(
  /** @type {string} */ name,
  /** @type {number} */ bytes,
  /** @type {number} */ buffers,
  /** @type {(g: any, at: (index: number) => any, slabs: any[]) => void} */ build,
) {
  const arena = new source.HeaderArena(16, { graph: true });
  const graph = new source.UpdateGraph(cpu, arena);
  const slabs = Array.from({ length: buffers }, () => {
    const buffer = cpu.memory.allocate(elements * 4);
    buffer.clear(0);
    return { buffer, offset: 0 };
  });
  build(graph, (index) => graph.at(slabs[index], [1024, elements / 1024]), slabs);
  cases.push({
    name,
    disk: false,
    bytes,
    run: () => cpu.compute(graph.handle),
    end: async () => {
      arena.dispose();
      for (const { buffer } of slabs) buffer.dispose();
    },
    seconds: [],
  });
}

/** Steps through the updater. */
async function stepped(
  /** @type {string} */ name,
  /** @type {number} */ bytes,
  /** @type {any} */ rule,
  /** @type {any} */ stores,
  /** @type {object} */ params = {},
) {
  const state = await source.allocateState(name, elements, rule, stores);
  await state.master.write(weights, 0, 0, elements * 4);
  const updater = new source.StateUpdater({ cpu, ledger, rule });
  cases.push({
    name,
    disk: Object.values(stores).includes(disk),
    bytes,
    run: () => updater.step(state, gradient, { ...PARAMS, ...params }),
    end: async () => {
      await updater.dispose();
      await source.freeState(state);
    },
    seconds: [],
  });
}

plain(PLAIN.passes, 28, 4, (g, at, slabs) => {
  g.put(g.add(at(0), at(1)), slabs[0]);
  g.put(g.scale(at(2), 0.9), slabs[2]);
  g.put(g.scale(at(3), 0.999), slabs[3]);
});
plain(PLAIN.add, 12, 3, (g, at, slabs) => g.put(g.add(at(0), at(1)), slabs[2]));
plain(PLAIN.kernel, 28, 5, (g, at, slabs) => {
  new Float32Array(slabs[4].buffer.view()).set(source.adamConstants({})(PARAMS));
  new Uint8Array(slabs[0].buffer.view()).set(new Uint8Array(weights.view()));
  new Uint8Array(slabs[1].buffer.view()).set(new Uint8Array(gradient.buffer.view()));
  g.adamw(at(0), at(1), at(2), at(3), g.at(slabs[4], [7]));
});
const inRam = { master: ram, moments: ram };
const working = { store: ram, dtype: "bf16" };
await stepped(ADAMW, 28, new source.AdamW(), inRam);
await stepped(
  "AdamW, RAM, clipped, bf16 copy",
  30,
  new source.AdamW(),
  { ...inRam, working },
  { gradScale: 0.5 },
);
await stepped("Adam8bit, RAM", 12 + 4 * (34 / 32) + 8 / 256, new source.Adam8bit(), inRam);
await stepped("SGD with momentum, RAM", 20, new source.SGD({ momentum: 0.9 }), inRam);
await stepped("AdamW, moments on disk", 16, new source.AdamW(), { master: ram, moments: disk });
await stepped("AdamW, all on disk", 24, new source.AdamW(), { master: disk, moments: disk });
await stepped("Adam8bit, moments on disk", 4 * (34 / 32) + 8 / 256, new source.Adam8bit(), {
  master: ram,
  moments: disk,
});
cases.push({
  name: "gradient norm",
  disk: false,
  bytes: 4,
  run: () => source.gradientNorm2([{ ...gradient, elements }], { cpu, ledger }),
  end: async () => {},
  seconds: [],
});

for (const onDisk of [false, true]) {
  const group = cases.filter((one) => one.disk === onDisk);
  for (let i = -1; i < repeats; i++) {
    console.error(
      `${onDisk ? "on disk" : "in RAM"}: ${i < 0 ? "warming up" : `repeat ${i + 1} of ${repeats}`}`,
    );
    for (const one of group) {
      const from = performance.now();
      await one.run();
      if (i >= 0) one.seconds.push((performance.now() - from) / 1000);
    }
  }
}
for (const one of cases) await one.end();
await ram.dispose();
await disk.dispose();
gradient.buffer.dispose();
weights.dispose();
await cpu.dispose();
ledger.assertEmpty();

const results = cases.map(({ name, bytes, seconds }) => ({
  name,
  bytes_per_parameter: bytes,
  parameters_per_s: spread(seconds.map((s) => elements / s)),
  bytes_per_s: spread(seconds.map((s) => (elements * bytes) / s)),
  seconds,
}));
const rate = (/** @type {string} */ name) =>
  /** @type {number} */ (results.find((one) => one.name === name)?.bytes_per_s.median);
/** AdamW through the updater, bytes per second over those of what it is compared with. */
const shares = {
  of_passes: rate(ADAMW) / rate(PLAIN.passes),
  of_add: rate(ADAMW) / rate(PLAIN.add),
  of_kernel: rate(ADAMW) / rate(PLAIN.kernel),
};
const giga = (/** @type {{ median: number, min: number, max: number, n: number }} */ s) => ({
  ...s,
  median: s.median / 1e9,
  min: s.min / 1e9,
  max: s.max / 1e9,
});
console.log(
  table(
    results.map((one) => ({
      case: one.name,
      "G parameters/s": withRange(giga(one.parameters_per_s)),
      "GB/s": withRange(giga(one.bytes_per_s)),
    })),
  ),
);
const percent = (/** @type {number} */ share) => `${round(100 * share)} %`;
console.log(
  `\nAdamW in RAM, bytes per second: ${percent(shares.of_passes)} of ggml's passes in place over the same bytes, ` +
    `${percent(shares.of_add)} of ggml_add, ${percent(shares.of_kernel)} of ggml's AdamW kernel alone`,
);
await writeResult("optimizer", { settings: { elements, repeats, threads }, shares, cases: results });

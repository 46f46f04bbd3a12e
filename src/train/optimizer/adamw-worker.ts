// What a thread of the crew runs: its share of a job, chunk by chunk, until none is left; then it sleeps until the next
// message. Text, because a worker's file would not survive bundling. It checks nothing: the crew does.
//
// It copies through views of memory, its own WebAssembly memory included (seen as shared it would be copied word by word).
// koffi's functions would be as fast, but what koffi sets up for them in a thread is not freed when the thread ends.

/** Elements of a chunk whose streams are copied: they and their copies fit a core's second cache of 512 KiB. */
export const COPIED_CHUNK = 8192;
/** Elements of a chunk that is stepped where it is. */
export const PLAIN_CHUNK = 65_536;
/** Bytes of f32 and bf16 per element: weights, gradient, first and second moment, working copy. */
const WIDTHS = [4, 4, 4, 4, 2];
/** Bytes of scratch of one stream of a chunk; a little apart from a power of two. */
const STREAM_SCRATCH = COPIED_CHUNK * 4 + 320;
/** The most bytes of one view of a stream. */
const WINDOW = 64 * 2 ** 20;
/** Bytes of scratch that a thread needs. */
export const WORKER_SCRATCH = WIDTHS.length * STREAM_SCRATCH;

export interface WorkerData {
  readonly compiled: WebAssembly.Module;
  /** Where its scratch begins, in every memory. */
  readonly scratch: number;
  /** One i32: the next chunk nobody has taken. */
  readonly counter: SharedArrayBuffer;
  /** The file of koffi, whose views it copies through. */
  readonly koffi: string;
}

/** What a thread is sent: the same to all of them. */
export interface StepJob {
  /** Names a memory; the memory itself comes with the first job in it. */
  readonly space: number;
  readonly memory?: WebAssembly.Memory | undefined;
  /** Address of the memory's first byte. */
  readonly base: number;
  readonly count: number;
  readonly chunk: number;
  readonly constants: readonly number[];
  /**
   * Weights, gradient, first and second moment, and, if it is written, the working copy. `offset` is that in the memory,
   * -1 where the stream lies elsewhere and is copied from its address, and back. `kept`: the address that values are
   * copied to before they are stepped.
   */
  readonly streams: readonly {
    readonly address: number;
    readonly offset: number;
    readonly kept: number | undefined;
  }[];
}

export const WORKER_SOURCE = `"use strict";
const { parentPort, workerData } = require("node:worker_threads");
const { compiled, scratch, counter, koffi: koffiFile } = workerData;
const WIDTHS = ${JSON.stringify(WIDTHS)};
const GRADIENT = 1, COPY = 4;
const next = new Int32Array(counter);
const loops = new Map();
let koffi;

function loop({ space, memory }) {
  if (memory) loops.set(space, new WebAssembly.Instance(compiled, { host: { memory } }).exports.step);
  return loops.get(space);
}

function view(address, bytes) {
  koffi ??= require(koffiFile);
  return new Uint8Array(koffi.view(BigInt(address), bytes));
}

/** The bytes from start to end of memory at an address that holds \`bytes\`; asked for in rising order. */
function windows(address, bytes) {
  let first = 0, part;
  return (start, end) => {
    if (!part || start < first || end > first + part.length) {
      first = start;
      part = view(address + first, Math.min(bytes - first, Math.max(${WINDOW}, end - start)));
    }
    return part.subarray(start - first, end - first);
  };
}

parentPort.on("message", (job) => {
  const { base, count, chunk, constants, streams } = job;
  const step = loop(job);
  const copied = streams.map((stream) => stream.offset < 0);
  const own = copied.includes(true) ? view(base + scratch, ${WORKER_SCRATCH}) : undefined;
  const at = streams.map(({ address, kept }, i) => (copied[i] || kept !== undefined ? windows(address, count * WIDTHS[i]) : undefined));
  const keep = streams.map(({ kept }, i) => (kept !== undefined ? windows(kept, count * WIDTHS[i]) : undefined));
  const offsets = [0, 0, 0, 0, 0];
  for (;;) {
    const first = Atomics.add(next, 0, 1) * chunk;
    if (first >= count) break;
    const elements = Math.min(chunk, count - first);
    for (let i = 0; i < streams.length; i++) {
      const start = first * WIDTHS[i], end = start + elements * WIDTHS[i];
      if (keep[i]) keep[i](start, end).set(at[i](start, end));
      offsets[i] = copied[i] ? scratch + i * ${STREAM_SCRATCH} : streams[i].offset + start;
      if (copied[i] && i !== COPY) own.set(at[i](start, end), i * ${STREAM_SCRATCH});
    }
    step(offsets[0], offsets[1], offsets[2], offsets[3], offsets[4], elements, ...constants);
    for (let i = 0; i < streams.length; i++) {
      if (!copied[i] || i === GRADIENT) continue;
      const start = first * WIDTHS[i], bytes = elements * WIDTHS[i];
      at[i](start, start + bytes).set(own.subarray(i * ${STREAM_SCRATCH}, i * ${STREAM_SCRATCH} + bytes));
    }
  }
  parentPort.postMessage("done");
});
parentPort.postMessage("ready");
`;

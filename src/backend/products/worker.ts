// What a thread of the crew runs. The first computes a graph: the nodes between two products by the tensor library, the
// products together with the others, which sleep in between. Bundled into a text by scripts/worker-text.ts, because a worker's
// file would not survive bundling, so nothing may import this file as it is.
import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";
import type Koffi from "koffi";
import {
  type CrewReply,
  type CrewThreadData,
  DIED,
  doneTiles,
  FAILED,
  type GraphJob,
  nextTile,
  STEP,
} from "./job.ts";
import { makeKernel } from "./kernel.ts";
import { countProducts, decodeProduct, type PlacedProduct, type Tiles, tileAt, tilesOf } from "./product.ts";

/** Times that the first thread looks whether the others are done before it sleeps. */
const LOOKS = 2000;
/** How long it sleeps before it looks whether one has died. */
const PATIENCE_MS = 1000;
/** Nodes that compute nothing. */
const VIEWS = new Set(["NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"]);

if (parentPort) serve(parentPort, workerData as CrewThreadData);

function serve(port: NonNullable<typeof parentPort>, data: CrewThreadData): void {
  const koffi = createRequire(data.koffi)(data.koffi) as typeof Koffi;
  // What koffi takes for a thread is not given back when the thread ends.
  koffi.config({ sync_stack_size: 65_536, sync_heap_size: 65_536 });
  const P = "void *";
  const base = koffi.load(data.ggml);
  const native = {
    nodes: base.func("ggml_graph_n_nodes", "int", [P]) as unknown as (g: bigint) => number,
    node: base.func("ggml_graph_node", P, [P, "int"]) as unknown as (g: bigint, i: number) => bigint,
    add: base.func("ggml_graph_add_node", "void", [P, P]) as unknown as (g: bigint, node: bigint) => void,
    clear: base.func("ggml_graph_clear", "void", [P]) as unknown as (g: bigint) => void,
    describe: base.func("ggml_op_desc", "const char *", [P]) as unknown as (node: bigint) => string,
    compute: base.func("ggml_backend_graph_compute", "int", [P, P]) as unknown as (
      backend: bigint,
      g: bigint,
    ) => number,
    toBf16: base.func("ggml_fp32_to_bf16_row", "void", [P, P, "int64_t"]) as unknown as (
      from: bigint,
      to: bigint,
      count: number,
    ) => void,
    traits: base.func("ggml_get_type_traits", P, ["int"]) as unknown as (type: number) => bigint,
  };
  const { address, bytes } = data.scratch;
  const rest = { address: address + data.unpacking, bytes: bytes - data.unpacking };
  const kernel = makeKernel(koffi, data.library, rest);
  const unpackRow = koffi.proto("void (const void *, void *, int64_t)");
  const unpackers = new Map<number, bigint>();

  /** ggml_type_traits.to_float: after a name, two sizes of blocks, the size of a type, a bool (ggml.h of ggml 0.25). */
  const unpacker = (type: number): bigint => {
    const known = unpackers.get(type);
    if (known !== undefined) return known;
    const found = koffi.decode(native.traits(type), 40, P) as bigint | null;
    if (!found) throw new Error(`type ${type} cannot be unpacked`);
    unpackers.set(type, found);
    return found;
  };

  /** Rows `first` ... of B in the type of the arithmetic, at the beginning of the scratch. */
  const unpack = (p: PlacedProduct, first: number, count: number): void => {
    const convert = unpacker(p.packed);
    const size = p.bf16 ? 2 : 4;
    const wide = BigInt(address + data.unpacking - p.k * 4);
    for (let row = 0; row < count; row++) {
      const from = BigInt(p.b + (first + row) * p.rowBytes);
      const to = BigInt(address + row * p.k * size);
      koffi.call(convert, unpackRow, from, p.bf16 ? wide : to, p.k);
      if (p.bf16) native.toBf16(wide, to, p.k);
    }
  };

  const tile = (p: PlacedProduct, tiles: Tiles, index: number) => {
    const { product, i, j, m, n } = tileAt(tiles, p, index);
    const { count, a: nextA, b: nextB, repeat } = p.stack;
    const [i2, i3] = [product % count[0], Math.floor(product / count[0])];
    const [j2, j3] = [Math.floor(i2 / repeat[0]), Math.floor(i3 / repeat[1])];
    const size = p.bf16 ? 2 : 4;
    const a = p.a + (i2 * nextA[0] + i3 * nextA[1] + i * (p.turnedA ? 1 : p.lda)) * size;
    const c = p.c + (product * p.m * p.ldc + i * p.ldc + j) * 4;
    const { bf16, k, lda, turnedA, ldc } = p;
    if (p.packed < 0) {
      const b = p.b + (j2 * nextB[0] + j3 * nextB[1] + j * (p.turnedB ? p.ldb : 1)) * size;
      kernel.run({ bf16, m, n, k, a, lda, turnedA, b, ldb: p.ldb, turnedB: p.turnedB, c, ldc });
    } else {
      unpack(p, j, n);
      kernel.run({ bf16, m, n, k, a, lda, turnedA, b: address, ldb: k, turnedB: true, c, ldc });
    }
  };

  /** Tiles of a product until none is left. */
  const work = ({ products, control }: GraphJob, index: number): void => {
    const product = decodeProduct(products, index);
    const tiles = tilesOf(product);
    for (;;) {
      const next = Atomics.add(control, nextTile(index), 1);
      if (next >= tiles.count) return;
      try {
        if (Atomics.load(control, FAILED) === 0) tile(product, tiles, next);
      } catch (error) {
        Atomics.compareExchange(control, FAILED, 0, 1);
        port.postMessage({ problem: text(error) } satisfies CrewReply);
      }
      if (Atomics.add(control, doneTiles(index), 1) + 1 === tiles.count)
        Atomics.notify(control, doneTiles(index));
    }
  };

  /** One product with the help of the others. */
  const lead = (job: GraphJob, index: number): void => {
    const { products, control } = job;
    const { count } = tilesOf(decodeProduct(products, index));
    Atomics.store(control, STEP, index + 1);
    Atomics.notify(control, STEP);
    work(job, index);
    for (let looks = 0; ; looks++) {
      const done = Atomics.load(control, doneTiles(index));
      if (done === count) break;
      if (Atomics.load(control, FAILED) === DIED) throw new Error("a thread ended");
      if (looks >= LOOKS) Atomics.wait(control, doneTiles(index), done, PATIENCE_MS);
    }
    if (Atomics.load(control, FAILED) !== 0) throw new Error("a product failed");
  };

  const conduct = (job: GraphJob): void => {
    const [backend, graph, segment] = [BigInt(job.backend), BigInt(job.graph), BigInt(job.segment)];
    const at = new Map<number, number>();
    for (let i = 0; i < countProducts(job.products); i++) at.set(decodeProduct(job.products, i).node, i);
    let pending = false;
    const flush = () => {
      if (pending) {
        const status = native.compute(backend, segment);
        if (status !== 0) throw new Error(`the tensor library gave status ${status}`);
      }
      native.clear(segment);
      pending = false;
    };
    native.clear(segment);
    const count = native.nodes(graph);
    for (let i = 0; i < count; i++) {
      const node = native.node(graph, i);
      const product = at.get(Number(node));
      if (product === undefined) {
        native.add(segment, node);
        pending ||= !VIEWS.has(native.describe(node));
      } else {
        flush();
        lead(job, product);
      }
    }
    flush();
  };

  const help = (job: GraphJob): void => {
    for (let seen = 0; ; ) {
      Atomics.wait(job.control, STEP, seen);
      seen = Atomics.load(job.control, STEP);
      if (seen < 0) return;
      if (seen > 0) work(job, seen - 1);
    }
  };

  port.on("message", (job: GraphJob | "end") => {
    if (job === "end") {
      kernel.dispose();
      port.postMessage({ ended: true } satisfies CrewReply);
      port.close();
      return;
    }
    if (data.index > 0) {
      help(job);
      return;
    }
    let problem: string | undefined;
    try {
      conduct(job);
    } catch (error) {
      problem = text(error);
    } finally {
      Atomics.store(job.control, STEP, -1);
      Atomics.notify(job.control, STEP);
    }
    port.postMessage({ done: true, problem } satisfies CrewReply);
  });
  port.postMessage({ ready: true, hasBf16: kernel.hasBf16 } satisfies CrewReply);
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

// The low-rank updates of an open model's adapter: A and B of every layer it changes, f32, on the devices that
// compute with them, for as long as the model is open. Parameters an adapter keeps whole are weights like any other: see adapters/join.ts.
import type { Adapter, LoraTarget } from "../../adapters/index.ts";
import { PAGE } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { DTYPES } from "../../backend/ggml/dtypes.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import type { LowRank } from "../../backend/ggml/ops.ts";
import { disposeAll, undoNowAfter } from "../../base/async/cleanup.ts";
import type { TensorEntry } from "../../formats/types.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Unit, Vector } from "../../plan/units.ts";
import { Loader, type LoaderContext } from "../weights/loader.ts";
import { pieceBound } from "../weights/sources.ts";

/** Each A and B starts at a multiple of this. Bytes. */
const ALIGNMENT = 256;
/** Elements that are read and widened at a time. */
const BLOCK = 2 ** 20;

const slot = (elements: number) => Math.ceil((elements * 4) / ALIGNMENT) * ALIGNMENT;

/** A [r, in] and B [out, r] of every target, as entries of the adapter's file. */
function factors({ targets, checkpoint }: Adapter) {
  return targets.map((target) => ({
    target,
    a: checkpoint.tensors.get(target.a) as TensorEntry, // openAdapter has checked them
    b: checkpoint.tensors.get(target.b) as TensorEntry,
  }));
}

/** Bytes of all A and B in f32 on the computing device; 0 without an adapter. */
export function adapterBytes(adapter: Adapter | undefined): number {
  return targetBytes(adapter?.targets ?? []);
}

/** Bytes of A and B in f32 of some targets. */
export function targetBytes(targets: readonly LoraTarget[]): number {
  return targets.reduce((sum, t) => sum + slot(t.r * t.in) + slot(t.r * t.out), 0);
}

/** RAM that loading them passes through. Bytes. */
export function adapterStaging(adapter: Adapter | undefined): number {
  if (!adapter) return 0;
  const passing = factors(adapter).flatMap(({ a, b }) =>
    [a, b].map(({ dtype, shape }) => {
      const count = Math.min(BLOCK, product(shape));
      return pieceBound(count * DTYPES[dtype].bytes) + PAGE + count * 4;
    }),
  );
  return Math.max(0, ...passing);
}

/** Bytes read from the adapter's file. */
export function adapterFileBytes(adapter: Adapter | undefined): number {
  return adapter ? factors(adapter).reduce((sum, { a, b }) => sum + a.bytes + b.bytes, 0) : 0;
}

/** Finds what an adapter adds to a weight of a stage: keyed by name, because tied weights keep updates of their own. */
export class TargetIndex<T> {
  readonly #byWeight: ReadonlyMap<string, T>;

  constructor(entries: Iterable<readonly [LoraTarget, T]>) {
    this.#byWeight = new Map([...entries].map(([target, value]) => [target.weight.name, value]));
  }

  /** Undefined where the stage's weight is not a target, or is a table it takes rows from. */
  of(unit: Unit, key: string): T | undefined {
    const weight = unit.stage.weights[key];
    return weight && !weight.rows ? this.#byWeight.get(weight.name) : undefined;
  }
}

export class AdapterWeights {
  readonly #arena: HeaderArena;
  readonly #memory: Allocation[] = [];
  #index: TargetIndex<LowRank> = new TargetIndex([]);

  private constructor(tensors: number) {
    this.#arena = new HeaderArena(tensors);
  }

  /**
   * Reads the adapter's file, whose entries' file numbers begin at `firstFile` of the context's sources, to the devices that
   * compute with its targets. On failure or
   * abort what was taken is freed before the error is thrown.
   */
  static async load(
    adapter: Adapter,
    firstFile: number,
    deviceOf: (target: LoraTarget) => Device,
    ctx: LoaderContext,
  ): Promise<AdapterWeights> {
    const weights = new AdapterWeights(2 * adapter.targets.length);
    const loader = new Loader(ctx);
    try {
      const entries: [LoraTarget, LowRank][] = [];
      const all = factors(adapter);
      for (const device of new Set(adapter.targets.map(deviceOf))) {
        const own = all.filter(({ target }) => deviceOf(target) === device);
        const bytes = targetBytes(own.map(({ target }) => target));
        const memory = Allocation.take(ctx.ledger, device.kind, device.memory, bytes, "adapter", "weights");
        weights.#memory.push(memory);
        let offset = 0;
        const place = async (entry: TensorEntry, ne: readonly [number, number]) => {
          const tensor = weights.#arena.bind(memory.buffer, offset, "f32", ne, entry.name);
          for (const { start, block } of blocks({ ...entry, file: firstFile + entry.file }))
            await loader.vectors([{ ...block, offset: offset + start * 4 }], memory.buffer);
          offset += slot(product(entry.shape));
          return tensor;
        };
        for (const { target, a, b } of own) {
          const low = await place(a, [target.in, target.r]);
          const high = await place(b, [target.r, target.out]);
          entries.push([target, { a: low, b: high, scale: target.scale }]);
        }
      }
      weights.#index = new TargetIndex(entries);
      return weights;
    } catch (error) {
      undoNowAfter(error, [() => weights.dispose()]);
    } finally {
      loader.dispose();
    }
  }

  /** What is added to products with a weight of a stage, if anything. Valid until {@link dispose}. */
  lowRank(unit: Unit, key: string): LowRank | undefined {
    return this.#index.of(unit, key);
  }

  /** Safe to call twice. */
  dispose(): void {
    disposeAll([...this.#memory, this.#arena]);
  }
}

/** A tensor as consecutive vectors of at most {@link BLOCK} elements, with the element each begins at. */
function* blocks(entry: TensorEntry): Generator<{ start: number; block: Vector }> {
  const { bytes: size } = DTYPES[entry.dtype];
  const total = product(entry.shape);
  for (let start = 0; start < total; start += BLOCK) {
    const length = Math.min(BLOCK, total - start);
    const range = { shape: [length], offset: entry.offset + start * size, bytes: length * size };
    yield { start, block: { key: entry.name, source: { ...entry, ...range }, length } };
  }
}

function product(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

// What stays in memory for as long as the model is open: resident matrices, all vectors, computed constants; with
// tensor headers made once.
import type { BufferType, NativeBuffer } from "../ggml/buffer.ts";
import type { Device } from "../ggml/device.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { library } from "../ggml/library.ts";
import type { Tensor } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { Tier } from "../memory/tiers.ts";
import type { Matrix, Unit } from "../plan/units.ts";
import { isVerbatim, Loader, type LoaderContext, type Placed } from "./loader.ts";

/** Vectors and constants start at multiples of this. Bytes. */
const VECTOR_ALIGNMENT = 256;
/** Matrices read at the same time, so that the queue never runs dry between two of them. */
const LOADS_IN_FLIGHT = 4;

/** Bytes of the buffer for vectors and constants. */
export function vectorBytes(units: readonly Unit[]): number {
  let total = 0;
  for (const length of units.flatMap((u) => Object.values(vectorLengths(u)))) total += slot(length);
  return Math.max(total, VECTOR_ALIGNMENT);
}

function slot(length: number): number {
  return Math.ceil((length * 4) / VECTOR_ALIGNMENT) * VECTOR_ALIGNMENT;
}

function vectorLengths(unit: Unit): Record<string, number> {
  const lengths: Record<string, number> = {};
  for (const v of unit.vectors) lengths[v.key] = v.length;
  for (const [key, values] of Object.entries(unit.stage.constants ?? {})) lengths[key] = values.length;
  return lengths;
}

export class Residents {
  readonly #arena: HeaderArena;
  readonly #matrices = new Map<string, { tensor: Tensor; placed: Placed; tier: "gpu" | "cpu" }>();
  readonly #vectors: Record<string, Tensor>[] = [];
  readonly #vectorPlaces: Record<string, NativeBuffer>[] = [];
  #vectorMemory: Allocation | undefined;

  private constructor(units: readonly Unit[]) {
    const count = units.reduce((n, u) => n + u.owned.length + Object.keys(vectorLengths(u)).length, 8);
    this.#arena = new HeaderArena(count);
  }

  /**
   * Loads every unit whose home is memory, and the vectors of all units. On failure or abort everything taken is
   * freed before the error is thrown.
   */
  static async load(
    units: readonly Unit[],
    homes: readonly Tier[],
    devices: { compute: Device; hostMemory: BufferType },
    ctx: LoaderContext,
  ): Promise<Residents> {
    const residents = new Residents(units);
    const loader = new Loader(ctx);
    try {
      await residents.#loadVectors(units, devices.compute, ctx.ledger, loader);
      const jobs = units.flatMap((unit) => {
        const tier = homes[unit.index] as Tier;
        return tier === "disk" ? [] : unit.owned.map((matrix) => ({ matrix, tier }));
      });
      const place = async ({ matrix, tier }: { matrix: Matrix; tier: "gpu" | "cpu" }) => {
        const memory = tier === "gpu" ? devices.compute.memory : devices.hostMemory;
        const placed = await loader.matrix(matrix, tier, memory);
        const { buffer } = placed.allocation;
        const tensor = residents.#arena.bind(buffer, placed.offset, matrix.dtype, matrix.ne, matrix.name);
        residents.#matrices.set(matrix.name, { tensor, placed, tier });
      };
      await inParallel(
        jobs,
        (job) => (job.tier === "cpu" && isVerbatim(job.matrix) ? LOADS_IN_FLIGHT : 1),
        place,
      );
      return residents;
    } catch (error) {
      residents.dispose();
      throw error;
    } finally {
      loader.dispose();
    }
  }

  async #loadVectors(units: readonly Unit[], device: Device, ledger: Ledger, loader: Loader): Promise<void> {
    const tier = device.kind === "gpu" ? "gpu" : "cpu";
    this.#vectorMemory = Allocation.take(
      ledger,
      tier,
      device.memory,
      vectorBytes(units),
      "weights",
      "weights",
    );
    const { buffer } = this.#vectorMemory;
    let offset = 0;
    for (const unit of units) {
      const tensors: Record<string, Tensor> = {};
      const places: Record<string, NativeBuffer> = {};
      for (const v of unit.vectors) {
        tensors[v.key] = this.#arena.bind(buffer, offset, "f32", [v.length], v.source.name);
        places[v.key] = buffer.part(offset, v.length * 4);
        await loader.vector(v, buffer, offset);
        offset += slot(v.length);
      }
      for (const [key, values] of Object.entries(unit.stage.constants ?? {})) {
        const tensor = this.#arena.bind(buffer, offset, "f32", [values.length], key);
        library().native.ggml_backend_tensor_set(tensor.handle, values, 0, values.byteLength);
        tensors[key] = tensor;
        offset += slot(values.length);
      }
      this.#vectors[unit.index] = tensors;
      this.#vectorPlaces[unit.index] = places;
    }
  }

  vectors(unit: Unit): Readonly<Record<string, Tensor>> {
    return this.#vectors[unit.index] ?? {};
  }

  /** The memory of a vector: f32, on the computing device. */
  vectorMemory(unit: Unit, key: string): NativeBuffer {
    const place = this.#vectorPlaces[unit.index]?.[key];
    if (!place) throw new Error(`${unit.name} has no vector "${key}"`);
    return place;
  }

  /** Where a matrix stays, or undefined if it streams. */
  matrix(m: Matrix): { tensor: Tensor; placed: Placed; tier: "gpu" | "cpu" } | undefined {
    return this.#matrices.get(m.name);
  }

  dispose(): void {
    for (const { placed } of this.#matrices.values()) placed.allocation.dispose();
    this.#matrices.clear();
    this.#vectorMemory?.dispose();
    this.#arena.dispose();
  }
}

/** Runs jobs in order, at most `width(job)` at a time; after a failure starts no more, and throws when all have ended. */
async function inParallel<T>(
  jobs: readonly T[],
  width: (job: T) => number,
  run: (job: T) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  for (const job of jobs) {
    while (running.size >= width(job)) await Promise.race(running);
    if (failure) break;
    const task = run(job)
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => running.delete(task));
    running.add(task);
  }
  await Promise.all(running);
  if (failure) throw failure.error;
}

// Brings the weights of units to where they are computed: those that stay are there, the rest arrive through the streamer.
import type { Device } from "../../backend/ggml/device.ts";
import { setData } from "../../backend/ggml/header-fields.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import type { Matrix, Unit } from "../../plan/units.ts";
import type { Job, Slot } from "./lane.ts";
import type { Residents } from "./residents.ts";
import type { UnitStreamer } from "./streamer.ts";

/** A matrix as graphs use it. `transposed`: it lies as the checkpoint holds it, [in, out], and is to be turned round. */
export interface MatrixTensor {
  readonly tensor: Tensor;
  readonly transposed: boolean;
}

/** Units that are where they are computed, until it is given back. */
export interface Lease extends Disposable {
  /** A matrix of one of its units. */
  matrix(g: Graph, m: Matrix): MatrixTensor;
}

/** Who brings units: see {@link ModelWeights}. */
export interface WeightSource {
  /** A hint that units will be acquired soon, in the order of the cycle. */
  prefetch(): void;
  /** Waits for units, in any order; the order of the cycle costs no waiting that reading ahead can save. */
  acquire(units: readonly Unit[]): Promise<Lease>;
}

export interface WeightParts {
  readonly device: Device;
  readonly residents: Residents;
  readonly streamer: UnitStreamer | undefined;
  /** Units that the streamer brings. */
  readonly streamed: ReadonlySet<Unit>;
}

export class ModelWeights implements WeightSource {
  readonly #p: WeightParts;

  constructor(parts: WeightParts) {
    this.#p = parts;
  }

  prefetch(): void {
    this.#p.streamer?.start();
  }

  streams(unit: Unit): boolean {
    return this.#p.streamed.has(unit);
  }

  async acquire(units: readonly Unit[]): Promise<Lease> {
    const jobs: Job[] = [];
    const release = () => {
      for (const job of jobs.splice(0)) this.#streamer.release(job);
    };
    try {
      for (const unit of units) if (this.streams(unit)) jobs.push(await this.#streamer.acquire(unit));
    } catch (error) {
      release();
      throw error;
    }
    return {
      matrix: (g, m) => this.resident(m) ?? fromSlot(g, m, slotOf(jobs, m)),
      [Symbol.dispose]: release,
    };
  }

  /** A matrix that stays in memory of the computing device. */
  resident(m: Matrix): MatrixTensor | undefined {
    const found = this.#p.residents.matrix(m);
    if (found?.tier !== this.#p.device.kind) return undefined;
    return { tensor: found.tensor, transposed: m.kept };
  }

  /** For graphs that are built before their weights have come: see {@link Arrivals}. */
  arrivals(): Arrivals {
    return new Arrivals(this, this.#streamer);
  }

  get #streamer(): UnitStreamer {
    if (!this.#p.streamer) throw new Error("a unit was to be brought, but nothing streams");
    return this.#p.streamer;
  }
}

/**
 * The operands of one graph whose weights come one unit after another while it is computed: bound to the ring first, moved
 * to their slots when those are known. The CPU alone reads addresses that late.
 */
export class Arrivals {
  readonly #weights: ModelWeights;
  readonly #streamer: UnitStreamer;
  readonly #tensors = new Map<string, { tensor: Tensor; turned: Tensor | undefined }>();

  constructor(weights: ModelWeights, streamer: UnitStreamer) {
    this.#weights = weights;
    this.#streamer = streamer;
  }

  /** A matrix of any unit, come or not. */
  matrix(g: Graph, unit: Unit, m: Matrix): MatrixTensor {
    const stays = this.#weights.resident(m);
    if (stays) return stays;
    const { tensor, transposed } = fromSlot(g, m, this.#streamer.placeholder(unit, m));
    const turned = transposed ? g.transpose(tensor) : undefined;
    this.#tensors.set(m.name, { tensor, turned });
    return { tensor: turned ? g.cont(turned) : tensor, transposed: false };
  }

  /** The tensors of a unit's matrices that come: what nodes that use them read. */
  tensorsOf(unit: Unit): Tensor[] {
    return unit.owned.flatMap((m) => {
      const bound = this.#tensors.get(m.name);
      return bound ? [bound.turned ?? bound.tensor] : [];
    });
  }

  /** Waits for a unit and moves its tensors to where it came to lie, until the lease is given back. */
  async acquire(unit: Unit): Promise<Disposable> {
    const job = await this.#streamer.acquire(unit);
    for (const m of unit.owned) {
      const bound = this.#tensors.get(m.name);
      if (!bound) continue;
      const { buffer, offset } = slotOf([job], m);
      for (const tensor of [bound.tensor, bound.turned]) if (tensor) setData(tensor, buffer.address(offset));
    }
    return { [Symbol.dispose]: () => this.#streamer.release(job) };
  }
}

function slotOf(jobs: readonly Job[], m: Matrix): Slot {
  for (const { slots } of jobs) {
    const slot = slots.find(({ name }) => name === m.name);
    if (slot) return slot;
  }
  throw new Error(`${m.name} is neither resident nor streamed`);
}

function fromSlot(g: Graph, m: Matrix, { buffer, offset, dtype, ne, transposed }: Slot): MatrixTensor {
  return { tensor: g.bind(buffer, offset, dtype, ne, m.name), transposed };
}

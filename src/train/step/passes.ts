// One micro-batch through the stages: forward keeping their inputs, and results of those that have memory for them; then
// backward in reverse, the other stages computed again. Weights stream, activations and gradients come and go beside it.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { throwIfAborted } from "../../base/errors.ts";
import type { Unit } from "../../plan/units.ts";
import type { EngineParts } from "../../runtime/open/open-model.ts";
import type { GatheredRows } from "../../runtime/step/inputs.ts";
import type { Slot } from "../../runtime/weights/lane.ts";
import type { Parameter, Parameters } from "../open/parameters.ts";
import type { Activations } from "./activations.ts";
import type { TensorBatch } from "./batch.ts";
import type { BatchInputs, InputSizes } from "./batch-inputs.ts";
import { DropoutMask } from "./dropout.ts";
import type { Gradients, OpenGradients } from "./gradient-store.ts";
import type { GradientSums } from "./gradient-sums.ts";
import type { KeptActivations } from "./kept-activations.ts";
import type { WantedOfUnit } from "./stage/stage-graphs.ts";
import { dropoutName, type StageRunner, type StageTensors } from "./stage/stage-runner.ts";
import type { Stalls } from "./stalls.ts";

export interface PassParts {
  readonly device: Device;
  readonly engine: EngineParts;
  readonly hidden: number;
  readonly parameters: Parameters;
  readonly inputs: BatchInputs;
  readonly sizes: InputSizes;
  readonly activations: Activations;
  readonly kept: KeptActivations;
  readonly gradients: Gradients;
  readonly sums: GradientSums;
  /** Two gradients of stage inputs, on the computing device. */
  readonly dy: readonly [NativeBuffer, NativeBuffer];
  readonly runner: StageRunner;
  /** What is wanted of each unit. */
  readonly wanted: readonly WantedOfUnit[];
  /** Units that stream. */
  readonly streamed: ReadonlySet<Unit>;
  readonly dropout: number;
  readonly stalls: Stalls;
  /** Waits until the weights of a unit may be used. */
  ready(unit: Unit): Promise<void>;
}

export interface PassOptions {
  /** 1 / targets of the whole step. */
  readonly gradScale: number;
  /** Of dropout masks. */
  readonly seed: readonly number[];
  /** Called with gradients that nothing will be added to any more, while they are in memory. */
  onFinal?(gradients: OpenGradients): Promise<void>;
  /** Called when such gradients can be borrowed. */
  onReady?(parameters: readonly Parameter[]): void;
  readonly signal?: AbortSignal | undefined;
}

export class Passes {
  readonly #p: PassParts;
  readonly #units: readonly Unit[];
  /** Gradients on their way back to where they live. */
  readonly #closing = new Set<Promise<void>>();

  constructor(parts: PassParts) {
    this.#p = parts;
    this.#units = parts.engine.units;
  }

  /** Streamed units in the order of one micro-batch, forward and backward. */
  get cycle(): Unit[] {
    const { streamed, wanted } = this.#p;
    const forward = this.#units.filter((u) => streamed.has(u));
    const backward = forward.filter((u) => u.stage.kind !== "head" && this.#isBackward(wanted[u.index]));
    return [...forward, ...backward.toReversed()];
  }

  /** Parameters that train in a unit. */
  trained(unit: Unit): Parameter[] {
    return this.#p.sums.of(unit);
  }

  /** Forward, loss and backward. Returns the sum of losses. */
  async train(batch: TensorBatch, options: PassOptions): Promise<number> {
    await this.#begin(batch, options.signal);
    await this.#forward(batch, options, true);
    const head = this.#units.at(-1) as Unit;
    let dy = this.#p.dy[0];
    let dx = this.#p.dy[1];
    const body = this.#units.slice(0, -1).filter((u) => this.#isBackward(this.#p.wanted[u.index]));
    this.#prefetch(body.at(-1));
    const loss = await this.#head(head, batch, options, dy);
    for (const [i, unit] of body.toReversed().entries()) {
      this.#prefetch(body[body.length - 2 - i]);
      await this.#backward(unit, batch, options, dy, dx);
      [dy, dx] = [dx, dy];
    }
    await this.#p.stalls.during("disk", Promise.all(this.#closing));
    return loss;
  }

  /** Forward and loss alone. Returns the sum of losses. */
  async evaluate(batch: TensorBatch, signal?: AbortSignal): Promise<number> {
    const options: PassOptions = { gradScale: 1, seed: [], signal };
    await this.#begin(batch, signal);
    await this.#forward(batch, options, false);
    const head = this.#units.at(-1) as Unit;
    return this.#withWeights(head, options, async (slots) => {
      const x = await this.#activation(head);
      const memory: StageTensors = { batch, slots, x };
      return this.#p.runner.head(head, memory, { parameters: [], x: false }, 1, async () => {});
    });
  }

  /** After an error: nothing is under way, and the next pass starts at the first stage. */
  async reset(): Promise<void> {
    await this.#p.engine.streamer?.reset();
    await this.#p.activations.reset();
    await Promise.allSettled(this.#closing);
    this.#closing.clear();
  }

  #isBackward(wanted: WantedOfUnit | undefined): boolean {
    return wanted !== undefined && (wanted.x || wanted.parameters.length > 0);
  }

  async #begin(batch: TensorBatch, signal?: AbortSignal): Promise<void> {
    const { engine, activations, kept, inputs, sizes, hidden, device, stalls } = this.#p;
    throwIfAborted(signal);
    activations.begin(hidden * batch.ids.length * 4);
    kept.begin();
    const rows: GatheredRows[] = [];
    for (const unit of this.#units) {
      for (const [key, matrix] of Object.entries(unit.matrices)) {
        const by = unit.stage.weights[key]?.rows;
        if (!by || engine.residents.matrix(matrix)?.tier === device.kind) continue;
        await this.#p.ready(unit);
        const ids = by === "tokens" ? batch.ids : batch.positions;
        const found = engine.rows.rows(matrix, ids, signal);
        rows.push({
          ...found,
          gather: (...place) => stalls.during("disk", found.gather(...place)),
        });
      }
    }
    await inputs.prepare(batch, rows, sizes);
  }

  async #forward(batch: TensorBatch, options: PassOptions, training: boolean): Promise<void> {
    const { activations, kept, runner, stalls } = this.#p;
    for (const unit of this.#units.slice(0, -1)) {
      await this.#withWeights(unit, options, async (slots) => {
        if (training) await this.#dropout(unit, batch, options);
        const x = await this.#activation(unit);
        const y = await stalls.during("disk", activations.target(unit.index));
        const keeps = training ? kept.forward(unit, batch) : undefined;
        await runner.forward(unit, { batch, slots, x, y, kept: keeps });
        if (keeps) kept.computed(unit, keeps);
      });
      if (training) activations.computed(unit.index);
    }
  }

  async #head(unit: Unit, batch: TensorBatch, options: PassOptions, dx: NativeBuffer): Promise<number> {
    if (batch.predicting.length === 0) return 0;
    const wanted = this.#p.wanted[unit.index] as WantedOfUnit;
    return this.#withWeights(unit, options, (slots) =>
      this.#withGradients(unit, options, async (opened) => {
        await this.#dropout(unit, batch, options);
        const x = await this.#activation(unit);
        const memory: StageTensors = { batch, slots, x, dx, into: this.#p.sums.into(unit, opened) };
        return this.#p.runner.head(unit, memory, wanted, options.gradScale, (key, gradient) =>
          this.#p.sums.add(unit, key, gradient, opened, batch),
        );
      }),
    );
  }

  async #backward(
    unit: Unit,
    batch: TensorBatch,
    options: PassOptions,
    dy: NativeBuffer,
    dx: NativeBuffer,
  ): Promise<void> {
    const wanted = this.#p.wanted[unit.index] as WantedOfUnit;
    await this.#withWeights(unit, options, (slots) =>
      this.#withGradients(unit, options, async (opened) => {
        await this.#dropout(unit, batch, options);
        const x = await this.#activation(unit);
        const kept = this.#p.kept.backward(unit);
        const memory: StageTensors = { batch, slots, x, dy, dx, kept, into: this.#p.sums.into(unit, opened) };
        await this.#p.runner.backward(unit, memory, wanted, (key, gradient) =>
          this.#p.sums.add(unit, key, gradient, opened, batch),
        );
      }),
    );
  }

  /** Input of a unit; the first one has none. */
  async #activation(unit: Unit): Promise<NativeBuffer | undefined> {
    if (unit.index === 0) return undefined;
    return this.#p.stalls.during("disk", this.#p.activations.use(unit.index - 1));
  }

  #prefetch(unit: Unit | undefined): void {
    if (unit) this.#p.activations.prefetch(unit.index - 1);
  }

  async #withWeights<T>(
    unit: Unit,
    { signal }: PassOptions,
    use: (slots: readonly Slot[]) => Promise<T>,
  ): Promise<T> {
    const { engine, streamed, stalls, ready } = this.#p;
    throwIfAborted(signal);
    await ready(unit);
    if (!streamed.has(unit) || !engine.streamer) return use([]);
    const job = await stalls.during("disk", engine.streamer.acquire(unit));
    try {
      return await use(job.slots);
    } finally {
      engine.streamer.release(job);
    }
  }

  /** Opens the sums of a unit's gradients around `use`, and tells of those that are final. */
  async #withGradients<T>(
    unit: Unit,
    options: PassOptions,
    use: (opened: OpenGradients | undefined) => Promise<T>,
  ): Promise<T> {
    const { gradients, stalls } = this.#p;
    const parameters = this.trained(unit);
    if (parameters.length === 0) return use(undefined);
    const isFinal = (p: Parameter) => p.uses[0]?.unit === unit.index;
    const final = parameters.filter(isFinal);
    const overwrites = (p: Parameter) => this.#p.sums.overwrites(unit, p);
    const opening = gradients.open(parameters, { overwrites, signal: options.signal });
    const opened = await stalls.during("disk", opening);
    let result: T;
    try {
      result = await use(opened);
      if (options.onFinal && final.length > 0) {
        await options.onFinal({
          parameters: final,
          buffers: opened.buffers.filter((_, i) => isFinal(parameters[i] as Parameter)),
          span: undefined,
        });
      }
    } catch (error) {
      gradients.release(opened);
      throw error;
    }
    this.#close(gradients.close(opened));
    options.onReady?.(final);
    return result;
  }

  /** Goes on while the next stages compute; {@link train} waits for it, and throws what went wrong. */
  #close(closing: Promise<void>): void {
    this.#closing.add(closing);
    const over = () => this.#closing.delete(closing);
    closing.then(over, () => {}); // one that failed stays, for train to throw its error
  }

  /** The same masks forward and backward: they depend on the seed and the place alone. */
  async #dropout(unit: Unit, batch: TensorBatch, { seed }: PassOptions): Promise<void> {
    const { dropout, parameters, inputs } = this.#p;
    inputs.beginStage();
    if (dropout === 0 || unit.stage.kind === "head") return;
    for (const [index, { target, unit: at, key }] of parameters.lowRank.entries()) {
      if (at !== unit.index) continue;
      const mask = new DropoutMask(dropout, [...seed, index]);
      await inputs.dropout(dropoutName(key), target.in, batch.ids.length, mask);
    }
  }
}

// Adds what a stage's graph computed to the sums of its parameters' gradients: in place where the CPU computes, by way of RAM
// from a GPU, and row by row for tables of which a batch uses some rows.
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { download } from "../../backend/ggml/transfer.ts";
import { UpdateGraph } from "../../backend/ggml/update-graph.ts";
import type { Allocation } from "../../memory/allocate.ts";
import type { Unit } from "../../plan/units.ts";
import { storedDims } from "../open/measure-operands.ts";
import type { Parameter, Parameters } from "../open/parameters.ts";
import { pieces } from "../optimizer/rules/rule.ts";
import type { TensorBatch } from "./batch.ts";
import type { OpenGradients } from "./gradient-store.ts";
import type { GradientSum } from "./stage/stage-runner.ts";
import type { Stalls } from "./stalls.ts";

/** Bytes of gradients of rows that are added together: a fraction of a millisecond, then others have their turn. */
const ROWS_BYTES = 2 ** 20;

export interface GradientSumsOptions {
  /** That computes the stages. */
  readonly device: Device;
  readonly cpu: Device;
  readonly parameters: Parameters;
  /** RAM that gradients come through from a GPU. */
  readonly staging: Allocation | undefined;
  readonly stalls: Stalls;
}

export class GradientSums {
  readonly #o: GradientSumsOptions;
  readonly #headers = new HeaderArena(64, { graph: true });

  constructor(options: GradientSumsOptions) {
    this.#o = options;
  }

  /** Parameters that train in a unit. */
  of(unit: Unit): Parameter[] {
    return (this.#o.parameters.ofUnit.get(unit.index) ?? []).map(({ parameter }) => parameter);
  }

  /** Whether all that a unit adds to a parameter's sum is one gradient that can be written there as well. */
  overwrites(unit: Unit, p: Parameter): boolean {
    return (
      this.#inPlace(unit, p).length === 1 && p.uses.filter((use) => use.unit === unit.index).length === 1
    );
  }

  /** Sums that a graph on the CPU adds to, or writes, in place; by the keys of the unit's weights. */
  into(unit: Unit, opened: OpenGradients | undefined): Record<string, GradientSum> {
    const into: Record<string, GradientSum> = {};
    for (const [i, p] of opened?.parameters.entries() ?? []) {
      const sum = { buffer: opened?.buffers[i] as NativeBuffer, dims: storedDims(p.shape) };
      for (const key of this.#inPlace(unit, p)) into[key] = { ...sum, fresh: opened?.fresh?.has(p) ?? false };
    }
    return into;
  }

  /** Rows of tables are added by {@link add}. */
  #inPlace(unit: Unit, { uses }: Parameter): string[] {
    if (!this.#o.device.onHost) return [];
    return uses.filter((use) => use.unit === unit.index && !use.rows).map(({ key }) => key);
  }

  /** Adds a gradient that the graph holds, of the weight under a unit's key. */
  async add(
    unit: Unit,
    key: string,
    gradient: Tensor,
    opened: OpenGradients | undefined,
    batch: TensorBatch,
  ): Promise<void> {
    const parameter = this.#o.parameters.ofUnit.get(unit.index)?.find((one) => one.key === key)?.parameter;
    const at = parameter ? (opened?.parameters.indexOf(parameter) ?? -1) : -1;
    const sum = opened?.buffers[at];
    if (!parameter || !sum) throw new Error(`${unit.name}: no gradient of ${key} was asked for`);
    const rows = parameter.uses.find((use) => use.unit === unit.index && use.key === key)?.rows;
    if (rows) {
      await this.#addRows(gradient, sum, rows === "tokens" ? batch.ids : batch.positions);
      return;
    }
    const { staging, stalls } = this.#o;
    if (!staging) throw new Error(`${unit.name}: no memory for the gradient of ${key}`);
    await stalls.during("copy", download(staging.buffer.address(), gradient));
    await this.#addWhole(staging.buffer, sum, parameter.elements);
  }

  /** Scatters the gradients of gathered rows, f32 [width, tokens], in the order of the tokens: a block of them at a time. */
  async #addRows(gradient: Tensor, sum: NativeBuffer, ids: Int32Array): Promise<void> {
    const width = gradient.ne[0];
    const most = Math.max(1, Math.floor(ROWS_BYTES / (width * 4)));
    const values = new Float32Array(Math.min(most, ids.length) * width);
    const total = new Float32Array(sum.view());
    for (let first = 0; first < ids.length; first += most) {
      const count = Math.min(most, ids.length - first);
      await download(values, gradient, first * width * 4, count * width * 4);
      for (let token = 0; token < count; token++) {
        const to = (ids[first + token] as number) * width;
        for (let i = 0; i < width; i++)
          total[to + i] = (total[to + i] as number) + (values[token * width + i] as number);
      }
    }
  }

  /** sum += part, on the CPU. */
  async #addWhole(part: NativeBuffer, sum: NativeBuffer, elements: number): Promise<void> {
    this.#headers.reset();
    const g = new UpdateGraph(this.#o.cpu, this.#headers);
    for (const { first, dims } of pieces(elements)) {
      const into = { buffer: sum, offset: 0 };
      g.put(
        g.add(g.at(into, dims, "f32", first), g.at({ buffer: part, offset: 0 }, dims, "f32", first)),
        into,
        first,
      );
    }
    await this.#o.cpu.compute(g.handle, { kind: "gradient sums", amount: elements });
  }

  dispose(): void {
    this.#headers.dispose();
  }
}

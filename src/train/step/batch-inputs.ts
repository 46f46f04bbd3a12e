// What a micro-batch gives the stages' graphs beside weights: ids, positions, the mask, targets, gathered rows of tables,
// dropout masks. One buffer on the computing device, filled anew for every micro-batch.

import type { Device } from "../../backend/ggml/device.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import { rowBytes, type Tensor } from "../../backend/ggml/tensor.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { BudgetError } from "../../base/errors.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { GatheredRows } from "../../runtime/step/inputs.ts";
import { DeviceWriter, type FillRows } from "../../runtime/weights/device-writer.ts";
import type { TensorBatch } from "./batch.ts";
import type { DropoutMask } from "./dropout.ts";

const ALIGNMENT = 256;
const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Sequences of one length that go through the model together. */
export interface BatchShape {
  readonly sequences: number;
  readonly length: number;
}

/** Elements that dropout masks have per token, at most, in one stage. */
export interface InputSizes {
  readonly rowBytes: readonly number[];
  readonly dropoutWidth: number;
}

/** Bytes of the inputs of a micro-batch. */
export function batchInputBytes({ sequences, length }: BatchShape, sizes: InputSizes): number {
  const tokens = sequences * length;
  let total = 4 * align(tokens * 4) + align(length * length * sequences * 2);
  for (const row of sizes.rowBytes) total += align(tokens * row);
  return total + align(tokens * sizes.dropoutWidth * 4);
}

interface Place {
  readonly offset: number;
  readonly dtype: DType;
  readonly dims: readonly number[];
}

const FIXED = ["ids", "positions", "predicting", "targets", "mask"] as const;
export type InputName = (typeof FIXED)[number];

export class BatchInputs {
  readonly #device: Device;
  readonly #memory: Allocation;
  readonly #writer: DeviceWriter;
  readonly #places = new Map<string, Place>();
  #dropoutFrom = 0;
  #end = 0;

  constructor(device: Device, ledger: Ledger, bytes: number) {
    this.#device = device;
    this.#writer = new DeviceWriter(device);
    this.#memory = Allocation.take(ledger, device.kind, device.memory, bytes, "batch inputs");
  }

  /** Fills in a micro-batch. Throws BudgetError for one larger than was planned for. */
  async prepare(batch: TensorBatch, rows: readonly GatheredRows[], sizes: InputSizes): Promise<void> {
    const { sequences, length, ids, positions, predicting, targets, masks } = batch;
    const needed = batchInputBytes({ sequences, length }, sizes);
    const { size } = this.#memory.buffer;
    if (needed > size) {
      throw new BudgetError(
        `a micro-batch of ${sequences} sequences of ${length} tokens needs ${needed} bytes of inputs, ${size} were ` +
          "planned for; set micro_batch_size and max_length to the largest that will come",
        { tier: this.#device.kind, needed, budget: size, smallest: needed },
      );
    }
    this.#places.clear();
    this.#end = 0;
    this.#put("ids", "i32", [ids.length], ids);
    this.#put("positions", "i32", [positions.length], positions);
    this.#put("predicting", "i32", [Math.max(1, predicting.length)], predicting);
    this.#put("targets", "i32", [Math.max(1, targets.length)], targets);
    const attention = this.#place("mask", "f16", [length, length, 1, masks]);
    await this.#fill(attention, { rows: length * masks, rowBytes: length * 2 }, (into, first, count) =>
      batch.mask(new Uint16Array(into.buffer, into.byteOffset, count * length), first),
    );
    for (const { name, dtype, width, gather } of rows) {
      const place = this.#place(rowsName(name), dtype, [width, ids.length]);
      await this.#fill(place, { rows: ids.length, rowBytes: rowBytes(dtype, width) }, gather);
    }
    this.#dropoutFrom = this.#end;
  }

  /** Forgets the dropout masks of the stage before. */
  beginStage(): void {
    this.#end = this.#dropoutFrom;
  }

  /** A dropout mask of this stage: f32 [width, tokens]. */
  async dropout(name: string, width: number, tokens: number, mask: DropoutMask): Promise<void> {
    const place = this.#place(name, "f32", [width, tokens]);
    await this.#fill(place, { rows: tokens, rowBytes: width * 4 }, (into, _first, count) =>
      mask.fill(new Float32Array(into.buffer, into.byteOffset, count * width)),
    );
  }

  /** A tensor over what was put in under a name; undefined where nothing was. */
  tensor(g: Graph, name: string): Tensor | undefined {
    const place = this.#places.get(name);
    return place && g.bind(this.#memory.buffer, place.offset, place.dtype, place.dims, name);
  }

  input(g: Graph, name: InputName): Tensor {
    return this.tensor(g, name) as Tensor;
  }

  #put(name: InputName, dtype: DType, dims: readonly number[], values: ArrayBufferView): void {
    this.#writer.write(this.#memory.buffer, this.#place(name, dtype, dims).offset, values);
  }

  /** Room for a tensor, behind what is there. */
  #place(name: string, dtype: DType, dims: readonly number[]): Place {
    const place = { offset: this.#end, dtype, dims };
    this.#places.set(name, place);
    const rows = dims.slice(1).reduce((a, b) => a * b, 1);
    this.#end += align(rowBytes(dtype, dims[0] as number) * rows);
    return place;
  }

  #fill({ offset }: Place, shape: { rows: number; rowBytes: number }, make: FillRows): Promise<void> {
    return this.#writer.fill(this.#memory.buffer, offset, shape, make);
  }

  dispose(): void {
    disposeAll([this.#memory, this.#writer]);
  }
}

/** Name under which rows of a table are put in. */
export function rowsName(table: string): string {
  return `rows of ${table}`;
}

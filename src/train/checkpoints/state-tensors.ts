// The training state as named tensors, for checkpoints: master weights and moments. Copies that compute are made from the
// master weights again.

import type { Device } from "../../backend/ggml/device.ts";
import { bytesOf } from "../../backend/ggml/dtypes.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { Converter } from "../../runtime/weights/convert.ts";
import type { Parameter, Parameters } from "../open/parameters.ts";
import type { UpdateRule } from "../optimizer/rules/rule.ts";
import { MASTER, type ParameterState } from "../optimizer/state.ts";
import type { StateTensor } from "./index.ts";

/** Elements converted at a time. */
const BLOCK_ELEMENTS = 2 ** 20;

export function stateTensors(
  { all }: Parameters,
  states: readonly ParameterState[],
  rule: UpdateRule,
): StateTensor[] {
  return all.flatMap((p) => {
    const state = states[p.index] as ParameterState;
    const bytes = MASTER.bytes(p.elements);
    const master: StateTensor = {
      ...{ name: `weights.${p.name}`, dtype: "f32", shape: p.shape, region: state.master, bytes },
    };
    const moments = rule.moments.map((format, i): StateTensor => {
      const region = state.moments[i] as StateTensor["region"];
      const size = format.bytes(p.elements);
      const plain = size === p.elements * 4;
      const type = plain
        ? { dtype: "f32" as const, shape: p.shape }
        : { dtype: "i8" as const, shape: [size] };
      return { name: `${format.name}.${p.name}`, ...type, region, bytes: size };
    });
    return [master, ...moments];
  });
}

/** Values of a parameter's master copy in another type, block by block; each block is valid until the next is asked for. */
export async function* masterBlocks(
  p: Parameter,
  state: ParameterState,
  dtype: "f32" | "f16" | "bf16",
  { cpu, ledger, signal }: { cpu: Device; ledger: Ledger; signal?: AbortSignal | undefined },
): AsyncGenerator<{ bytes: Uint8Array; memory: Allocation; at: number; first: number }> {
  const block = Math.min(p.elements, BLOCK_ELEMENTS);
  const wide = wholeBlocks(block * 4);
  const memory = Allocation.take(ledger, "cpu", cpu.memory, 2 * wide, "staging");
  const converter = new Converter(cpu);
  try {
    for (let first = 0; first < p.elements; first += block) {
      const count = Math.min(block, p.elements - first);
      await state.master.read(memory.buffer, 0, first * 4, count * 4, signal);
      const from = { buffer: memory.buffer, offset: 0, dtype: "f32" as const, width: count, rows: 1 };
      const at = dtype === "f32" ? 0 : wide;
      if (dtype !== "f32")
        await converter.run(from, { buffer: memory.buffer, offset: wide, dtype, ne: [count, 1] }, 0, false);
      yield { bytes: new Uint8Array(memory.buffer.view(at, bytesOf(dtype, count))), memory, at, first };
    }
  } finally {
    disposeAll([memory, converter]);
  }
}

/** Makes the copies that compute from the master copies. */
export async function writeWorkingCopies(
  { all }: Pick<Parameters, "all">,
  states: readonly ParameterState[],
  context: { cpu: Device; ledger: Ledger; signal?: AbortSignal | undefined },
): Promise<void> {
  for (const p of all) {
    const state = states[p.index] as ParameterState;
    const { working } = state;
    if (!working) continue;
    for await (const { memory, at, bytes, first } of masterBlocks(p, state, working.dtype, context)) {
      await working.region.write(
        memory.buffer,
        at,
        bytesOf(working.dtype, first),
        bytes.byteLength,
        context.signal,
      );
    }
  }
}

// What saved states must come back as, and a small training that saves, for the tests of this folder. Not for the program.
import { readdir } from "node:fs/promises";
import { expect } from "vitest";
import { cpuMemory } from "../../backend/ggml/device.ts";
import { readTensor } from "../../formats/safetensors/read-tensor.ts";
import { Ledger } from "../../memory/ledger.ts";
import { CpuStore } from "../../memory/stores/native.ts";
import { holdings } from "../../memory/stores/testing.ts";
import { openOutputCount } from "./output-file.ts";
import { openTrainingCheckpoint } from "./restore.ts";
import { type SaveStateOptions, saveCheckpoint, type TrainingState } from "./save.ts";
import type { StateTensor } from "./tensors.ts";
import { bytesOfRegion, contents, fill, SPECS, type Spec, stateIn } from "./testing-state.ts";

export async function expectState(tensors: readonly StateTensor[], step: number): Promise<void> {
  for (const tensor of tensors) {
    const seen = await bytesOfRegion(tensor.region, tensor.offset ?? 0, tensor.bytes);
    expect(Buffer.compare(seen, contents(tensor, step)), tensor.name).toBe(0);
  }
}

/** The checkpoint is whole and holds the state of the step its meta tells. Reads it with other code than restoring. */
export async function expectWhole(path: string, specs: readonly Spec[] = SPECS): Promise<number> {
  const opened = await openTrainingCheckpoint(path);
  const content = Number(opened.meta.content);
  expect([...opened.tensors.tensors.keys()].sort()).toEqual(specs.map(({ name }) => name).sort());
  for (const spec of specs) {
    const seen = await readTensor(opened.tensors, spec.name);
    expect(Buffer.compare(seen, contents(spec, content)), `${path}: ${spec.name}`).toBe(0);
  }
  return content;
}

/** A small state in memory and how to save it. */
export class Training {
  readonly ledger = new Ledger();
  readonly store = new CpuStore({ memory: cpuMemory(), ledger: this.ledger });
  readonly #before = { ...holdings(), files: openOutputCount() };
  #tensors: StateTensor[] | undefined;

  get options(): { ledger: Ledger; memory: ReturnType<typeof cpuMemory> } {
    return { ledger: this.ledger, memory: cpuMemory() };
  }

  /** Saves as `step` the state of `content` (of the step, if absent), or `tensors` as they are. */
  async save(
    dir: string,
    step: number,
    more: Partial<SaveStateOptions & TrainingState> & { content?: number } = {},
  ): Promise<string> {
    const { content = step, meta = { content }, eval_loss, tensors, ...options } = more;
    if (!tensors) {
      this.#tensors ??= await stateIn(this.store);
      await fill(this.#tensors, content);
    }
    const state = { step, meta, tensors: tensors ?? this.#tensors ?? [], eval_loss };
    return saveCheckpoint(dir, state, { ...this.options, ...options });
  }

  /** Frees the state; expects nothing to be held that was not held at the beginning. */
  async end(): Promise<void> {
    await this.store.dispose();
    this.ledger.assertEmpty();
    expect({ ...holdings(), files: openOutputCount() }).toEqual(this.#before);
  }
}

/** Names in a folder that are not checkpoints under their own name. */
export async function leftovers(dir: string): Promise<string[]> {
  return (await readdir(dir)).filter((name) => !/^checkpoint-\d+$/.test(name));
}

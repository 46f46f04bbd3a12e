// A short training with one of its parts on disk at a time, and what it comes to when nothing happens to it.
import { expect } from "vitest";
import type { OffloadOptions } from "../../src/train/open/options.ts";
import type { Trainer } from "../../src/train/trainer.ts";
import { oneStep, type StepFacts, stateOf, steps, training } from "./train-runs.ts";

/** Steps of the training that all others are held to. */
export const STEPS = 3;
export const RAM = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" } as const;
const LORA = { r: 4, lora_alpha: 8, target_modules: ["q_proj", "up_proj"] };

/** One part of training on disk at a time; `lora`: its weights are frozen. */
export const PARTS: Readonly<Record<string, { offload: OffloadOptions; lora?: typeof LORA }>> = {
  "weights that train": { offload: { ...RAM, weights: "disk" } },
  "frozen weights": { offload: { ...RAM, weights: "disk" }, lora: LORA },
  "optimizer states": { offload: { ...RAM, optimizer: "disk" } },
  gradients: { offload: { ...RAM, gradients: "disk" } },
  activations: { offload: { ...RAM, activations: "disk" } },
};

export interface Whole {
  readonly facts: readonly StepFacts[];
  readonly state: unknown;
}

const undisturbed = new Map<boolean, Promise<Whole>>();

/** What the training comes to that nothing happens to, of all weights or of an adapter. */
export function expectedOf(part: string): Promise<Whole> {
  const { lora } = PARTS[part] ?? {};
  const known = undisturbed.get(lora !== undefined);
  if (known) return known;
  const whole = training({ trainer: { lora, offload: RAM } }, async (trainer) => ({
    facts: await steps(trainer, STEPS),
    state: await stateOf(trainer),
  }));
  undisturbed.set(lora !== undefined, whole);
  return whole;
}

/** Goes on to the end and holds what comes to the undisturbed training. */
export async function finish(trainer: Trainer, { facts, state }: Whole): Promise<void> {
  while (trainer.steps < STEPS) {
    const at = trainer.steps;
    expect(await oneStep(trainer)).toEqual(facts[at]);
  }
  expect(await stateOf(trainer)).toEqual(state);
}

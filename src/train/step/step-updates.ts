// The updates of one step: when each parameter's may be made, and with which rate and scale. Made they are by update-queue.ts.
//
// Where no gradient can keep the step from being made, each is updated as soon as backward is through with it. Else the norm of
// all gradients decides: parameters with a second place are updated ahead of it, to be kept or taken back, the others after it.
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { NumericsError } from "../../base/errors.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { type TrainerSettings, updatesAtOnce } from "../open/options.ts";
import type { Parameter, Parameters } from "../open/parameters.ts";
import { gradientNorm2 } from "../optimizer/gradient-norm.ts";
import type { StepParams } from "../optimizer/rules/rule.ts";
import type { OpenGradients } from "./gradient-store.ts";
import type { UpdateQueue } from "./update-queue.ts";

export interface StepUpdatesOptions {
  readonly settings: Pick<TrainerSettings, "schedule" | "weight_decay" | "non_finite" | "max_grad_norm">;
  readonly parameters: Parameters;
  readonly updates: UpdateQueue;
  readonly cpu: Device;
  readonly ledger: Ledger;
  /** Steps made before this one. */
  readonly steps: number;
  /** Whether updates ahead are worth their while: not after a step that took them back. */
  readonly mayBeAhead: boolean;
  /** Takes back what was updated ahead. */
  drop(): Promise<void>;
}

export class StepUpdates {
  readonly #o: StepUpdatesOptions;
  /** Sums of squares of the gradients that are final, in the order of all parameters. */
  readonly #squares: Float64Array;
  readonly #when: "at once" | "ahead" | "after";
  #begun = false;

  constructor(options: StepUpdatesOptions) {
    const { settings, updates, parameters, mayBeAhead } = options;
    this.#o = options;
    this.#squares = new Float64Array(parameters.all.length);
    this.#when = updatesAtOnce(settings) ? "at once" : updates.drafts && mayBeAhead ? "ahead" : "after";
  }

  /** Whether updates were made that cannot be taken back. */
  get begun(): boolean {
    return this.#begun;
  }

  /** The norm of all gradients, once all of them are final. */
  get gradNorm(): number {
    return Math.sqrt(this.#squares.reduce((a, b) => a + b, 0));
  }

  /** Gradients to which nothing will be added any more, while they are in memory. */
  async final({ parameters, buffers }: OpenGradients): Promise<void> {
    const { cpu, ledger } = this.#o;
    const parts = parameters.map((p, i) => ({
      ...{ buffer: buffers[i] as NativeBuffer, offset: 0 },
      elements: p.elements,
    }));
    const { squares } = await gradientNorm2(parts, { cpu, ledger });
    for (const [i, p] of parameters.entries()) this.#squares[p.index] = squares[i] as number;
  }

  /** Their parameters may be stepped, if it is time for it. */
  ready(parameters: readonly Parameter[]): void {
    if (this.#when === "at once") {
      this.#begun = true;
      this.#add(parameters, 1);
    }
    if (this.#when !== "ahead") return;
    for (const p of parameters) if (this.#isFinite(p)) this.#o.updates.addAhead(p, this.#params(p, 1));
  }

  /** The step is made: what was not updated yet is, with gradients scaled down where their norm is above the limit. */
  make(scale: number): void {
    if (this.#when === "at once") return;
    const { updates, parameters } = this.#o;
    const made = scale < 1 ? updates.redo((p) => this.#params(p, scale)) : updates.keep();
    this.#add(
      parameters.all.filter((p) => !made.has(p.index)),
      scale,
    );
  }

  /** The step is not made: parameters and moments are what they were. */
  drop(): Promise<void> {
    return this.#o.drop();
  }

  #add(parameters: readonly Parameter[], gradScale: number): void {
    for (const p of parameters) {
      const params = this.#params(p, gradScale);
      if (!this.#isFinite(p))
        throw new NumericsError(`${p.name}: its gradient is not finite; lower learning_rate (${params.lr})`);
      this.#o.updates.add(p, params);
    }
  }

  #isFinite(p: Parameter): boolean {
    return Number.isFinite(this.#squares[p.index]);
  }

  #params({ decay }: Parameter, gradScale: number): StepParams {
    const { settings, steps } = this.#o;
    const lr = settings.schedule(steps);
    return { lr, gradScale, step: steps + 1, weight_decay: decay ? settings.weight_decay : 0 };
  }
}

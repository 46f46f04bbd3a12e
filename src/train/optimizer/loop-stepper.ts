// Steps slices with the compiled loop, in turn with the device's graphs. A working copy that is not bf16 is converted by
// ggml afterwards.

import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { type Slab, UpdateGraph } from "../../backend/ggml/update-graph.ts";
import { disposeAll, runAll } from "../../base/async/cleanup.ts";
import type { AdamwCrew } from "./adamw-crew.ts";
import { convert } from "./graph-stepper.ts";
import type { LoopConstants, LoopRule, StepParams } from "./rules/rule.ts";
import type { Traffic } from "./slots.ts";
import type { Gradient, Stepper } from "./stepper.ts";

/** Tensor headers of one conversion: two pieces of three tensors. */
const HEADERS = 16;

export class LoopStepper implements Stepper {
  /** About 13 ms on two cores; waking the threads for a turn takes up to half a millisecond. */
  readonly inPlaceElements = 16 * 2 ** 20;
  readonly #cpu: Device;
  readonly #rule: LoopRule;
  readonly #crew: AdamwCrew;
  readonly #arenas: readonly [HeaderArena, HeaderArena];
  #constants: LoopConstants | undefined;
  #joined = true;

  constructor(cpu: Device, rule: LoopRule, crew: AdamwCrew) {
    this.#cpu = cpu;
    this.#rule = rule;
    this.#crew = crew;
    this.#arenas = [new HeaderArena(HEADERS, { graph: true }), new HeaderArena(HEADERS, { graph: true })];
    crew.join();
  }

  async begin(params: StepParams): Promise<void> {
    this.#constants = this.#rule.loopConstants(params);
    await this.#crew.start();
  }

  prepare(run: Traffic, index: number, gradient: Gradient): () => Promise<void> {
    const constants = this.#constants as LoopConstants;
    const count = run.elements(index);
    const [weights, m, v, copy] = run.parts.map((part) => run.slab(part, index, 0)) as [
      Slab,
      Slab,
      Slab,
      Slab?,
    ];
    const dtype = copy && run.state.working?.dtype;
    const keeps = run.parts.map((part) => run.keeps(part, index)).map((slab) => slab && address(slab));
    const job = {
      count,
      constants,
      weights: address(weights),
      gradient: gradient.buffer.address(gradient.offset + index * run.length * 4),
      moments: [address(m), address(v)] as const,
      copy: copy && dtype === "bf16" ? address(copy) : undefined,
      kept: { weights: keeps[0], moments: [keeps[1], keeps[2]] as const },
    };
    let conversion: bigint | undefined;
    if (copy && dtype && dtype !== "bf16") {
      const arena = this.#arenas[index % 2] as HeaderArena;
      arena.reset();
      const g = new UpdateGraph(this.#cpu, arena);
      convert(g, count, weights, copy, dtype);
      conversion = g.handle;
    }
    return async () => {
      await this.#cpu.soon(() => this.#crew.run(job));
      if (conversion === undefined) return;
      await this.#cpu.compute(conversion, { kind: "optimizer", detail: "copy", amount: count });
    };
  }

  async dispose(): Promise<void> {
    if (!this.#joined) return;
    this.#joined = false;
    await runAll([() => disposeAll(this.#arenas), () => this.#crew.leave()]);
  }
}

function address({ buffer, offset }: Slab): bigint {
  return buffer.address(offset);
}

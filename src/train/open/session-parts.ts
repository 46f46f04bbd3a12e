// What a trainer holds, taken in order once the model is loaded for it, with a step that gives each back.

import { type Adapter, breakTies, joinSaved, savedWeights } from "../../adapters/index.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import type { LowRank } from "../../backend/ggml/ops.ts";
import { type Cleanup, runAll } from "../../base/async/cleanup.ts";
import { ConfigError } from "../../base/errors.ts";
import { Allocation } from "../../memory/allocate.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { sharedMemory } from "../../memory/shared-memory.ts";
import { formatBytes } from "../../memory/sizes.ts";
import type { Store } from "../../memory/store.ts";
import { DiskStore } from "../../memory/stores/disk.ts";
import { CpuStore, GpuStore } from "../../memory/stores/native.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { Engine } from "../../runtime/engine.ts";
import type { TrainingHooks } from "../../runtime/open/training-hooks.ts";
import { StateUpdater } from "../optimizer/updater.ts";
import { Activations } from "../step/activations.ts";
import { BatchInputs, batchInputBytes } from "../step/batch-inputs.ts";
import { Gradients } from "../step/gradient-store.ts";
import { GradientSums } from "../step/gradient-sums.ts";
import { KeptActivations } from "../step/kept-activations.ts";
import { Passes } from "../step/passes.ts";
import { StageRunner } from "../step/stage/stage-runner.ts";
import { Stalls } from "../step/stalls.ts";
import { UpdateQueue } from "../step/update-queue.ts";
import { hasDraft } from "./homes.ts";
import { initialLowRank, writeValues } from "./low-rank-init.ts";
import { hostBytes, Keepings, wantedOf } from "./measure-step.ts";
import { inputSizes, type TrainingWay, trainingWays } from "./memory-plan.ts";
import type { TrainerSettings } from "./options.ts";
import { type Parameters, trainedParameters } from "./parameters.ts";
import { DiskWeights, openDrafts, openStates, type TrainedStates } from "./trained-weights.ts";

export interface Held {
  readonly settings: TrainerSettings;
  /** The one that goes on being trained. */
  readonly adapter: Adapter | undefined;
  readonly engine: Engine;
  readonly parameters: Parameters;
  readonly way: TrainingWay;
  readonly trained: TrainedStates;
  readonly gradients: Gradients;
  readonly updates: UpdateQueue;
  readonly passes: Passes;
  readonly stalls: Stalls;
  readonly stores: readonly DiskStore[];
}

/** What is decided and made while the engine loads. */
export class Loading {
  readonly settings: TrainerSettings;
  readonly folder: string | undefined;
  /** The one that goes on being trained. */
  readonly adapter: Adapter | undefined;
  readonly disk = new DiskWeights();
  parameters: Parameters | undefined;
  weights: DiskStore | undefined;

  constructor(settings: TrainerSettings, adapter: Adapter | undefined, folder: string | undefined) {
    this.settings = settings;
    this.adapter = adapter;
    this.folder = settings.offload_folder ?? folder;
  }

  readonly hooks: TrainingHooks = {
    join: (base, spec) => {
      const { adapter, settings } = this;
      if (adapter) return joinSaved(base, spec, adapter);
      return breakTies(base, spec, settings.lora ? savedWeights(settings.lora, spec, "lora") : []);
    },
    ways: (known) => {
      this.parameters = trainedParameters(known, this.settings);
      const { optimizer, activations } = this.settings;
      if (known.device.onHost && [optimizer, activations].includes("gpu"))
        throw new ConfigError(
          "offload: a part of training is to live on gpu, but the model runs on the CPU; open it with device",
        );
      return trainingWays(known, this.parameters, this.settings);
    },
    trains: (name) => this.parameters?.all.some((p) => p.name === name) ?? false,
    memoryFor: (name) => (this.hooks.trains(name) ? sharedMemory : undefined), // the optimizer steps it in place
    place: async (prepared, units, ctx, onRelease) => {
      const open = async () => {
        if (this.weights) return this.weights;
        this.weights = await this.store(ctx.ledger, prepared.cpu);
        const { weights } = this;
        onRelease(() => weights.dispose());
        return weights;
      };
      return this.disk.place(units, prepared.plan.homes, this.hooks.trains, open, ctx);
    },
  };

  store(ledger: Ledger, cpu: Device): Promise<DiskStore> {
    if (this.folder === undefined) {
      const bytes = formatBytes((this.parameters?.elements ?? 0) * 4);
      throw new ConfigError(
        `part of the training state is to live on disk (${bytes} of f32 weights): name a folder for it with offload_folder`,
      );
    }
    const { beforeTransfer } = this.settings;
    return DiskStore.open({ folder: this.folder, ledger, memory: cpu.memory, beforeTransfer });
  }
}

export async function take(
  engine: Engine,
  loading: Loading,
  cleanup: Cleanup,
  signal: AbortSignal | undefined,
): Promise<Held> {
  const { settings, adapter } = loading;
  const { prepared, parts } = engine;
  const { device, cpu, spec, checkpoint } = prepared;
  const { ledger, sources, queue } = parts;
  const parameters = loading.parameters as Parameters;
  const way = prepared.way as TrainingWay;
  const { homes, shape } = way;
  let disk: DiskStore | undefined;
  const stores = new Map<Tier, Store>();
  const storeOf = async (tier: Tier): Promise<Store> => {
    const known = stores.get(tier);
    if (known) return known;
    if (tier === "disk") disk = await loading.store(ledger, cpu);
    const made = disk && tier === "disk" ? disk : nativeStore(tier, device, ledger);
    stores.set(tier, made);
    cleanup.add(() => made.dispose());
    return made;
  };
  const stalls = new Stalls();
  const trained = await openStates({
    ...{ parameters, rule: settings.rule, device, parts, disk: loading.disk },
    store: await storeOf(homes.optimizer),
    entries: checkpoint.tensors,
    fill: { cpu, ledger, sources, queue, signal },
  });
  cleanup.add(() => trained.dispose());
  await initialise(parameters, trained, settings, adapter, cpu, ledger);
  const gradients = await Gradients.open({
    ...{ parameters, cpu, ledger, poolBytes: way.gradientPool },
    store: await storeOf(homes.gradients),
  });
  cleanup.add(() => gradients.dispose());
  const hidden = spec.hidden_size * shape.sequences * shape.length * 4;
  const activations = await Activations.open({
    ...{ device, cpu, ledger, count: spec.stages.length - 1, bytes: hidden },
    store: homes.activations === device.kind ? undefined : await storeOf(homes.activations),
  });
  cleanup.add(() => activations.dispose());
  const keepings = new Keepings(prepared, parameters);
  const kept = new KeptActivations({
    ...{ device, ledger, bytes: way.kept.bytes },
    keepingOf: (unit, batch) => keepings.of(unit, batch),
  });
  cleanup.add(() => kept.dispose());
  const allocate = (tier: "gpu" | "cpu", bytes: number, what: string) => {
    const type = tier === "gpu" ? device.memory : device.onHost ? cpu.memory : device.hostMemory;
    const taken = Allocation.take(ledger, tier, type, bytes, what);
    cleanup.add(() => taken.dispose());
    return taken;
  };
  const dy = allocate(device.kind, 2 * wholeBlocks(hidden), "gradients of stage inputs").buffer;
  const largest = Math.max(...parameters.all.map((p) => p.elements)) * 4;
  const staging = device.onHost ? undefined : allocate("cpu", largest, "gradients on their way");
  const sizes = inputSizes(prepared, parameters);
  const inputs = new BatchInputs(device, ledger, batchInputBytes(shape, sizes));
  cleanup.add(() => inputs.dispose());
  const beside = hostBytes(shape, way.tensors);
  for (const [what, bytes] of [
    ["batches", beside.batches],
    ["graph headers", beside.headers],
  ] as const) {
    const entry = ledger.reserve("cpu", bytes, what);
    cleanup.add(() => entry.release());
  }
  const updaters: StateUpdater[] = [];
  for (let i = 0; i < way.updatesUnderWay; i++) {
    const updater = new StateUpdater({
      ...{ cpu, ledger, rule: settings.rule, sliceElements: way.sliceElements },
    });
    updaters.push(updater);
    cleanup.add(() => updater.dispose());
    // What does not fit must be an error now, not in the middle of a step.
    for (const state of trained.states) await updater.prepare(state);
  }
  const { states } = trained;
  const drafts = await openDrafts({
    ...{ parameters, states, disk: loading.disk },
    hasDraft: (p, home) => hasDraft(p, device.kind, home, way),
    stores: {
      ...{ weights: loading.weights, states: await storeOf(homes.optimizer) },
      ram: await storeOf("cpu"),
    },
  });
  cleanup.add(() => runAll(Array.from(drafts.values(), (draft) => () => draft.free())));
  const updates = new UpdateQueue({ updaters, states, gradients, drafts });
  cleanup.add(() => updates.dispose());
  const runner = new StageRunner({
    ...{ device, engine: parts, vocab: spec.vocab_size, hidden: spec.hidden_size },
    ...{ parameters, lowRank: trained.lowRank, inputs, tensors: way.tensors },
  });
  cleanup.add(() => runner.dispose());
  const wanted = parts.units.map((u) => wantedOf(parameters, u.index));
  const streamed = new Set(parts.units.filter((u) => parts.streamer?.pass.includes(u)));
  const sums = new GradientSums({ device, cpu, parameters, staging, stalls });
  cleanup.add(() => sums.dispose());
  const passes: Passes = new Passes({
    ...{ device, engine: parts, hidden: spec.hidden_size, parameters, inputs, sizes, activations, kept },
    ...{ gradients, sums, runner, wanted, streamed, stalls },
    dropout: settings.lora?.lora_dropout ?? 0,
    dy: [dy.part(0, hidden), dy.part(wholeBlocks(hidden), hidden)],
    ready: (unit) => stalls.during("optimizer", updates.done(passes.trained(unit))),
  });
  useAdapter(engine, parameters, trained, cleanup);
  const disks = [disk, loading.weights].filter((one) => one !== undefined);
  return {
    ...{ settings, adapter, engine, parameters, way, trained },
    ...{ gradients, updates, passes, stalls },
    stores: disks,
  };
}

function nativeStore(tier: Tier, device: Device, ledger: Ledger): Store {
  return tier === "gpu" ? new GpuStore({ device, ledger }) : new CpuStore({ memory: sharedMemory, ledger });
}

/** The first values of low-rank weights, in their working and master copies. */
async function initialise(
  parameters: Parameters,
  trained: TrainedStates,
  settings: TrainerSettings,
  adapter: Adapter | undefined,
  cpu: Device,
  ledger: Ledger,
): Promise<void> {
  if (parameters.lowRank.length === 0) return;
  const host = Allocation.take(ledger, "cpu", cpu.memory, 2 ** 20, "staging");
  try {
    const init = settings.lora?.init_lora_weights ?? true;
    for (const { target, ...indices } of parameters.lowRank) {
      for (const which of ["a", "b"] as const) {
        const p = parameters.all[indices[which]];
        const state = p && trained.states[p.index];
        if (!state) continue;
        const values = await initialLowRank(p, { which, target }, { seed: settings.seed, init, adapter });
        const regions = [state.master, ...(state.working ? [state.working.region] : [])];
        await writeValues(regions, p.elements, values, host.buffer);
      }
    }
  } finally {
    host.dispose();
  }
}

/** Texts that are generated meanwhile are those of the adapter as it is trained. */
function useAdapter(engine: Engine, parameters: Parameters, trained: TrainedStates, cleanup: Cleanup): void {
  if (parameters.lowRank.length === 0) return;
  const headers = new HeaderArena(2 * parameters.lowRank.length);
  const found = new Map<string, LowRank>();
  for (const { unit, key, target, a, b } of parameters.lowRank) {
    const bind = (index: number, dims: [number, number]) => {
      const memory = trained.lowRank.get(index);
      if (!memory) throw new Error(`${target.module} has no memory`);
      return headers.bind(memory, 0, "f32", dims);
    };
    found.set(`${unit} ${key}`, {
      a: bind(a, [target.in, target.r]),
      b: bind(b, [target.r, target.out]),
      scale: target.scale,
    });
  }
  const attached = engine.attach({
    adapter: { lowRank: (unit, key) => found.get(`${unit.index} ${key}`) },
  });
  cleanup.add(() => {
    attached[Symbol.dispose]();
    headers.dispose();
  });
}

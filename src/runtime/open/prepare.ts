// Everything about an open model that is known before memory is taken: skeleton, sizes, budgets, plan.
import { type Adapter, joinSaved, openAdapter } from "../../adapters/index.ts";
import { Device, findDevice, isGpu, listDevices } from "../../backend/ggml/device.ts";
import { parseDType } from "../../backend/ggml/dtypes.ts";
import { LEAST_MATRIX } from "../../backend/products/choice.ts";
import { productMode } from "../../backend/products/find.ts";
import { openProducts } from "../../backend/products/open.ts";
import { BudgetError, ConfigError } from "../../base/errors.ts";
import { joinNotes } from "../../base/notes.ts";
import type { BeforeRead } from "../../memory/io/direct-io.ts";
import { defaultCpuBudget, threadCount } from "../../memory/limits.ts";
import { formatBytes } from "../../memory/sizes.ts";
import type { Tier } from "../../memory/tiers.ts";
import { openBaseModel } from "../../models/base-model.ts";
import type { ModelSpec } from "../../models/spec.ts";
import {
  type CacheDType,
  type DeviceMap,
  type MaxMemory,
  parseDeviceMap,
  parseMaxMemory,
  parseWeightDType,
  type WeightDType,
} from "../../plan/options.ts";
import { type FixedBytes, makePlan, type Plan, withPackedBytes } from "../../plan/plan.ts";
import { modelUnits, type Unit } from "../../plan/units.ts";
import { KV_DTYPES, type KvDType, kvBytes } from "../state/kv-cache.ts";
import { adapterBytes, adapterStaging } from "../step/adapter.ts";
import { inputBytes } from "../step/inputs.ts";
import { logitsChoices } from "../step/logits-memory.ts";
import { gatheredRowBytes, gatheredTables, hasFlashAttention, measureScratch } from "../step/measure.ts";
import { needPacking } from "../weights/copies/packed-copy.ts";
import { type LoadProgress, loadStaging } from "../weights/loader.ts";
import { vectorBytes } from "../weights/residents.ts";
import { rowStagingBytes } from "../weights/row-reader.ts";
import { expectedPacked, knownPacked, type PackedBytes, unitSizes } from "../weights/unit-sizes.ts";
import type { Packing, Prepared, Skeleton, Way } from "./prepared.ts";
import type { TrainingHooks } from "./training-hooks.ts";

export interface EngineOptions {
  /** Folder of a PEFT LoRA adapter that is added to the model. */
  readonly adapter?: string;
  /** Type of the weights in memory: "auto" keeps the checkpoint's. */
  readonly dtype?: WeightDType;
  /** Where arithmetic runs: "auto", "cpu", "gpu", "cuda:0", "vulkan:0" ... */
  readonly device?: string;
  readonly device_map?: DeviceMap;
  /** Bytes that may be taken per tier. Defaults: free device memory, and RAM this process may still use. */
  readonly max_memory?: MaxMemory;
  readonly kv_dtype?: CacheDType;
  /** Tokens of KV cache planned for. Default: the model's maximum, at most 4096, less in a small budget. */
  readonly context_length?: number;
  /** Where converted and packed copies of weights go. */
  readonly offload_folder?: string;
  /**
   * Where not all weights fit in memory, bfloat16 ones are read from a lossless copy in `offload_folder` that is a quarter
   * smaller, and unpacked when they are used; on the CPU what stays in RAM stays packed too, so that more of it does. The
   * copy is made by the first load and takes room beside the checkpoint.
   */
  readonly offload_packed?: boolean;
  /** false loads the whole state dict first and copies it, for comparison. */
  readonly low_cpu_mem_usage?: boolean;
  /** CPU threads. Default: the cores this process may use. */
  readonly threads?: number;
  readonly progress_callback?: (progress: LoadProgress) => void;
  /** Called with each of the model's warnings before anything is loaded; `model.warnings` holds them afterwards. */
  readonly warning_callback?: (warning: string) => void;
  readonly signal?: AbortSignal;
  /** Set when the model is loaded to be trained. */
  readonly training?: TrainingHooks;
  /** Called before every read of weights, to inject delays, errors and short reads. */
  readonly beforeRead?: BeforeRead;
}

/** The longest default context. Tokens. */
const DEFAULT_CONTEXT = 4096;
const SMALLEST_DEFAULT_CONTEXT = 256;
/** A shorter context than this is no help to anybody. */
const SHORTEST_ADVISED = 32;
/** The default context is halved until its cache is at most this part of the budget. */
const KV_SHARE = 1 / 8;
/** Device memory left to the driver and to whatever else runs there. */
const GPU_SHARE = 0.92;

/**
 * Reads headers and config.json, and those of an adapter, and joins them.
 * Throws CheckpointError, ConfigError, UnsupportedError.
 */
export async function readSkeleton(
  dir: string,
  dtype = "auto",
  signal?: AbortSignal,
  adapterDir?: string,
  training?: TrainingHooks,
): Promise<Skeleton> {
  const { config, spec: own, checkpoint: base, notes: found } = await openBaseModel(dir, signal);
  const adapter =
    adapterDir === undefined
      ? undefined
      : await openAdapter(adapterDir, own, { base, ...(signal && { signal }) });
  const joined = adapter ? joinSaved(base, own, adapter) : { checkpoint: base, spec: own };
  const { checkpoint, spec } = training ? training.join(joined.checkpoint, joined.spec) : joined;
  const keepLayout = training !== undefined;
  const model = modelUnits(spec, checkpoint, { dtype: parseWeightDType(dtype), keepLayout });
  const notes = joinNotes(found, model.notes, adapter?.notes);
  return { dir, checkpoint, config, spec, model, adapter, notes };
}

/** Opens the devices and makes the plan. The caller disposes the devices; on failure they are disposed here. */
export async function prepare(dir: string, options: EngineOptions): Promise<Prepared> {
  const { training } = options;
  const skeleton = await readSkeleton(dir, options.dtype, options.signal, options.adapter, training);
  const threads = options.threads ?? threadCount();
  if (!Number.isInteger(threads) || threads < 1 || threads > 512) {
    throw new ConfigError(`threads is ${threads}, expected a whole number from 1 to 512`);
  }
  const kv_dtype = kvDType(options.kv_dtype ?? "float16");
  const info = findDevice(options.device ?? "auto");
  const cpu = Device.open(isGpu(info) ? findDevice("cpu") : info, { threads });
  let device = cpu;
  try {
    if (isGpu(info)) device = Device.open(info, { threads });
    const budgets = { ...defaultBudgets(device), ...parseMaxMemory(options.max_memory) };
    const { model, adapter } = skeleton;
    await openWideProducts(device, model.units);
    const { spec, notes } = withPositions(skeleton, options.context_length);
    const flash = hasFlashAttention(spec, device, kv_dtype);
    const wanted = parseDeviceMap(options.device_map ?? "auto", model.units);
    const ways = training?.ways({ ...skeleton, device, cpu, budgets });
    // Training changes weights where they are, and a GPU gets what is in RAM as it is.
    const stayPacked = options.offload_packed && !training && device === cpu ? expectedPacked : undefined;
    const planFor = (context: number) => {
      const scratch = measureScratch(spec, model.units, device, { context, kv_dtype, flash, adapter });
      const planOf = (units: readonly Unit[], packed: PackedBytes | undefined, way?: Way) => {
        const sizes = unitSizes(units, device, cpu, packed);
        const most = Math.max(scratch, way?.scratch ?? 0);
        const own = fixedBytes(spec, model.units, device, { context, kv_dtype, scratch: most, adapter });
        const { whole, sentence } = logitsChoices(spec.vocab_size, context);
        const plan = (fixed: FixedBytes) =>
          makePlan({ units, sizes, compute: device.kind, budgets, wanted, fixed });
        // What trains gives texts meanwhile, and is looked at, but by the sentence.
        if (way) return plan({ ...own, logits: sentence, training: way.bytes });
        // Where weights may move, they make room; where they may not, there is room for less.
        const choices = wanted.includes(undefined) ? [whole] : [whole, sentence];
        return firstThatFits(choices.map((logits) => () => plan({ ...own, logits })));
      };
      const planned = (way?: Way) => planOf(model.units, stayPacked, way);
      const replan = stayPacked && ((units: readonly Unit[]) => planOf(units, knownPacked));
      return { ...(ways ? cheapest(ways, planned) : { plan: planned(), way: undefined }), replan };
    };
    const { context, plan, way, replan } = chooseContext(
      spec,
      options.context_length,
      budgets[device.kind],
      kv_dtype,
      planFor,
    );
    const packing = options.offload_packed ? packingOf(plan, model.units, wanted, replan) : undefined;
    const expected = packing ? withPacked(plan, model.units, expectedPacked) : plan;
    const decided = { ...skeleton, spec, plan: expected, packing, kv_dtype, context, flash, way };
    return { ...decided, notes: joinNotes(notes, unusedBudgets(options, device)), cpu, device, budgets };
  } catch (error) {
    if (device !== cpu) await device.dispose();
    await cpu.dispose();
    throw error;
  }
}

/** Wide products for a model that has matrices large enough. */
async function openWideProducts(device: Device, units: readonly Unit[]): Promise<void> {
  const matrices = units.flatMap((u) => Object.values(u.matrices));
  const large = matrices.filter((m) => productMode() === "all" || m.ne[0] * m.ne[1] >= LEAST_MATRIX);
  if (large.length > 0)
    await openProducts(
      device,
      large.map((m) => m.dtype),
    );
}

/** Budgets of tiers that nothing will be put on: whoever gave one expects something of it. */
function unusedBudgets(options: EngineOptions, device: Device): string[] {
  const given = parseMaxMemory(options.max_memory);
  const notes: string[] = [];
  if (given.gpu && device.onHost) {
    const why = listDevices().some(isGpu)
      ? `device is ${device.name}`
      : "no GPU was found (spillway doctor says what is missing)";
    notes.push(
      `the gpu budget of ${formatBytes(given.gpu)} is not used: ${why}, everything is computed on the CPU`,
    );
  }
  if (given.disk && options.offload_folder === undefined) {
    notes.push(
      `the disk budget of ${formatBytes(given.disk)} is not used: it is for copies in an offload folder, and none was ` +
        "named (offload_folder, --offload-folder); weights that do not fit are read from the checkpoint itself",
    );
  }
  return notes;
}

function withPacked(plan: Plan, units: readonly Unit[], bytesOf: PackedBytes): Plan {
  return withPackedBytes(plan, units, (unit, m) => bytesOf(unit, m) ?? m.bytes);
}

/** Nothing to pack where everything fits. A plan that packs RAM is made again: any unit that may move is then packed. */
function packingOf(
  plan: Plan,
  units: readonly Unit[],
  wanted: readonly (Tier | undefined)[],
  replan: Planned["replan"],
): Packing | undefined {
  const onDisk = units.filter((u) => plan.homes[u.index] === "disk");
  if (onDisk.length === 0 && plan.packed.size === 0) return undefined;
  const moving = replan ? units.filter((u) => wanted[u.index] !== "cpu") : onDisk;
  if (needPacking(moving).length === 0) return undefined;
  return {
    units: new Set(moving.map((u) => u.index)),
    replan: (packed) => withPacked(replan?.(packed) ?? plan, packed, knownPacked),
  };
}

interface Planned {
  readonly plan: Plan;
  readonly way: Way | undefined;
  /** The same with packed weights in RAM, where they may be. */
  readonly replan?: ((units: readonly Unit[]) => Plan) | undefined;
}

/** The first plan that fits. Throws the BudgetError of the last, which needs least. */
function firstThatFits(plans: readonly (() => Plan)[]): Plan {
  let refusal: unknown;
  for (const plan of plans) {
    try {
      return plan();
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      refusal = error;
    }
  }
  throw refusal;
}

/** The way that costs least, of those that fit. Throws the BudgetError of the one that needs least. */
function cheapest(ways: readonly Way[], planned: (way: Way) => Plan): Planned {
  let best: { plan: Plan; way: Way; cost: number } | undefined;
  let refusal: BudgetError | undefined;
  for (const way of ways) {
    try {
      const plan = planned(way);
      const cost = way.cost(plan);
      if (!best || cost < best.cost) best = { plan, way, cost };
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      if (!refusal || (error.smallest ?? 0) < (refusal.smallest ?? 0)) refusal = error;
    }
  }
  if (best) return best;
  throw refusal ?? new ConfigError("training: there is no way to keep its state");
}

/** The spec with as many positions as were asked for, and a note where those are more than the model was made for. */
function withPositions({ spec, notes }: Skeleton, asked = 0): Pick<Skeleton, "spec" | "notes"> {
  if (!(asked > spec.max_positions) || asked > spec.positions.most) return { spec, notes };
  const note = `context_length ${asked} is more than the ${spec.max_positions} positions of config.json: beyond those the model was not trained`;
  return { spec: { ...spec, max_positions: asked }, notes: joinNotes(notes, [note]) };
}

/** The context asked for, or the longest default whose cache is a fair part of the budget and whose plan fits. */
function chooseContext(
  spec: ModelSpec,
  asked: number | undefined,
  budget: number | undefined,
  kv: KvDType,
  planFor: (context: number) => Planned,
): Planned & { context: number } {
  if (asked !== undefined) {
    if (!Number.isInteger(asked) || asked < 1)
      throw new ConfigError(`context_length is ${asked}, expected a whole number above 0`);
    if (asked > spec.positions.most) {
      const { most, end } = spec.positions;
      throw new ConfigError(`context_length is ${asked}, the model has positions for ${most} tokens: ${end}`);
    }
    return { context: asked, ...withAdvice(asked, planFor) };
  }
  let context = Math.min(spec.max_positions, DEFAULT_CONTEXT);
  const share = (budget ?? Number.POSITIVE_INFINITY) * KV_SHARE;
  while (context > SMALLEST_DEFAULT_CONTEXT && kvBytes(spec, kv, context) > share)
    context = Math.ceil(context / 2);
  for (;;) {
    try {
      return { context, ...planFor(context) };
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      if (context <= SMALLEST_DEFAULT_CONTEXT) return { context, ...withAdvice(context, planFor) };
      context = Math.max(SMALLEST_DEFAULT_CONTEXT, Math.ceil(context / 2));
    }
  }
}

/** The plan for `context`; where it does not fit, the error names a shorter one that would, if there is one. */
function withAdvice(context: number, planFor: (context: number) => Planned): Planned {
  try {
    return planFor(context);
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error;
    for (
      let shorter = Math.ceil(context / 2);
      shorter >= SHORTEST_ADVISED;
      shorter = Math.ceil(shorter / 2)
    ) {
      try {
        planFor(shorter);
      } catch (again) {
        if (again instanceof BudgetError) continue;
        throw again;
      }
      const { tier, needed, budget, smallest } = error;
      throw new BudgetError(`${error.message}, or --context-length ${shorter} (context_length: ${shorter})`, {
        ...{ tier, needed, budget, smallest },
      });
    }
    throw error;
  }
}

function fixedBytes(
  spec: ModelSpec,
  units: readonly Unit[],
  device: Device,
  o: { context: number; kv_dtype: KvDType; scratch: number; adapter: Adapter | undefined },
): FixedBytes {
  return {
    kv: kvBytes(spec, o.kv_dtype, o.context),
    activations: inputBytes(o.context, spec.hidden_size, gatheredRowBytes(units)),
    scratch: o.scratch,
    vectors: vectorBytes(units),
    ...(o.adapter && { adapter: adapterBytes(o.adapter) }),
    ...(device.products && { products: device.products.bytes }),
    rows: rowStagingBytes(gatheredTables(units)),
    staging: Math.max(loadStaging(units, device.memory), adapterStaging(o.adapter)),
  };
}

function defaultBudgets(device: Device): Partial<Record<Tier, number>> {
  const cpu = defaultCpuBudget();
  if (device.onHost) return { cpu };
  const { free } = device.freeMemory();
  return { cpu, ...(free > 0 && { gpu: Math.floor(free * GPU_SHARE) }) };
}

function kvDType(name: string): KvDType {
  const dtype = parseDType(name);
  const match = KV_DTYPES.find((k) => k === dtype);
  if (!match) throw new ConfigError(`kv_dtype "${name}" is not one of float16, float32`);
  return match;
}

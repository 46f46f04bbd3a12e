// Everything about an open model that is known before memory is taken: skeleton, sizes, budgets, plan.
import type { Adapter } from "../../adapters/index.ts";
import { Device, findDevice, isGpu, listDevices } from "../../backend/ggml/device.ts";
import { type DType, parseDType } from "../../backend/ggml/dtypes.ts";
import { headersCanChange } from "../../backend/ggml/header-fields.ts";
import { LEAST_PARAMETERS } from "../../backend/products/choice.ts";
import { productMode } from "../../backend/products/find.ts";
import { openProducts } from "../../backend/products/open.ts";
import { undoAfter } from "../../base/async/cleanup.ts";
import { BudgetError, ConfigError } from "../../base/errors.ts";
import { joinNotes } from "../../base/notes.ts";
import type { BeforeRead } from "../../memory/io/direct-io.ts";
import { defaultCpuBudget, threadCount } from "../../memory/limits.ts";
import { formatBytes } from "../../memory/sizes.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { ModelSpec } from "../../models/spec.ts";
import { tokenSeconds, USUAL_DISK } from "../../plan/cost.ts";
import { makePlan } from "../../plan/make-plan.ts";
import {
  type CacheDType,
  type ComputeChoice,
  type ComputeMap,
  type DeviceMap,
  type MaxMemory,
  parseCompute,
  parseDeviceMap,
  parseMaxMemory,
  type WeightDType,
} from "../../plan/options.ts";
import { type FixedBytes, type HybridRequest, type Plan, withPackedBytes } from "../../plan/plan.ts";
import { byStage, type ModelUnits, type Unit } from "../../plan/units.ts";
import { KV_DTYPES, type KvDType, kvBytes } from "../state/kv-cache.ts";
import { adapterBytes, adapterStaging, targetBytes } from "../step/adapter.ts";
import { CHUNK_TOKENS } from "../step/chunks.ts";
import { inputBytes } from "../step/inputs.ts";
import { logitsChoices } from "../step/logits-memory.ts";
import {
  gatheredRowBytes,
  gatheredTables,
  hasFlashAttention,
  type MeasureOptions,
  measureScratch,
} from "../step/measure.ts";
import { needPacking } from "../weights/copies/packed-copy.ts";
import { type LoadProgress, loadStaging } from "../weights/loader.ts";
import { vectorBytes } from "../weights/residents.ts";
import { rowStagingBytes } from "../weights/row-reader.ts";
import { expectedPacked, knownPacked, type PackedBytes, unitSizes } from "../weights/unit-sizes.ts";
import { type WeightRates, weightRates } from "./calibrate.ts";
import { chooseContext, type Planned, withPositions } from "./context.ts";
import { closeDevices, type Packing, type Prepared, type Way } from "./prepared.ts";
import { readSkeleton } from "./skeleton.ts";
import type { TrainingHooks } from "./training-hooks.ts";

export interface EngineOptions {
  /** Folder of a PEFT LoRA adapter that is added to the model. */
  readonly adapter?: string;
  /** Type of the weights in memory: "auto" keeps the checkpoint's. */
  readonly dtype?: WeightDType;
  /** Where arithmetic runs: "auto", "cpu", "gpu", "cuda:0", "vulkan:0" ... */
  readonly device?: string;
  readonly device_map?: DeviceMap;
  /**
   * On a GPU, where the stages are computed whose weights are not in its memory: "gpu" brings them to it, "hybrid" has the
   * CPU compute them where they lie, "auto" takes what is predicted to be faster; a map says it by module. Default: "auto".
   */
  readonly compute?: ComputeMap;
  /** Bytes that may be taken per tier. Defaults: free device memory, and RAM this process may still use. */
  readonly max_memory?: MaxMemory;
  readonly kv_dtype?: CacheDType;
  /** Tokens of KV cache planned for. Default: the model's maximum, at most 4096, less in a small budget. */
  readonly context_length?: number;
  /**
   * Keys and values of the text before are kept, and a prompt that begins like it is read from where the two part. Rows of
   * passes of another width may differ in the last bits from those of a prompt read at once; false reads each anew.
   * Default: true.
   */
  readonly prefix_cache?: boolean;
  /** Sequences of `context_length` tokens that are planned for at once; more go on in groups. Default: 1. */
  readonly max_sequences?: number;
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
  /** CPU threads. Default: for each kind of work what is fastest, up to the cores this process may use. */
  readonly threads?: number;
  readonly progress_callback?: (progress: LoadProgress) => void;
  /** Called with each of the model's warnings before anything is loaded; `model.warnings` holds them afterwards. */
  readonly warning_callback?: (warning: string) => void;
  readonly signal?: AbortSignal;
  /** Set when the model is loaded to be trained. */
  readonly training?: TrainingHooks;
  /** Called before every read of weights, to inject delays, errors and short reads. */
  readonly beforeRead?: BeforeRead;
  /** Bytes of the largest unit, for tests with small models: see `UNIT_BYTES`. */
  readonly unitBytes?: number;
}

/** Device memory left to the driver and to whatever else runs there. */
const GPU_SHARE = 0.92;

/** Opens the devices and makes the plan. The caller disposes the devices; on failure they are disposed here. */
export async function prepare(dir: string, options: EngineOptions): Promise<Prepared> {
  const { training } = options;
  const skeleton = await readSkeleton(dir, options);
  const threads = options.threads ?? threadCount();
  if (!Number.isInteger(threads) || threads < 1 || threads > 512) {
    throw new ConfigError(`threads is ${threads}, expected a whole number from 1 to 512`);
  }
  const { max_sequences = 1 } = options;
  if (!Number.isInteger(max_sequences) || max_sequences < 1 || max_sequences > CHUNK_TOKENS) {
    throw new ConfigError(
      `max_sequences is ${max_sequences}, expected a whole number from 1 to ${CHUNK_TOKENS}`,
    );
  }
  const kv_dtype = kvDType(options.kv_dtype ?? "float16");
  const info = findDevice(options.device ?? "auto");
  const team = { threads, adaptive: options.threads === undefined };
  const cpu = Device.open(isGpu(info) ? findDevice("cpu") : info, team);
  let device = cpu;
  try {
    if (isGpu(info)) device = Device.open(info, team);
    const budgets = { ...defaultBudgets(device), ...parseMaxMemory(options.max_memory) };
    const { model, adapter } = skeleton;
    await openWideProducts(device, model);
    const { spec, notes } = withPositions(skeleton, options.context_length);
    const flash = hasFlashAttention(spec, device, kv_dtype);
    const wanted = parseDeviceMap(options.device_map ?? "auto", model.units);
    const wholeStages = !headersCanChange(device);
    const ways = training?.ways({ ...skeleton, device, cpu, budgets });
    // Training changes weights where they are, and a GPU gets what is in RAM as it is.
    const stayPacked = options.offload_packed && !training && device === cpu ? expectedPacked : undefined;
    const choice = parseCompute(options.compute ?? "auto", model.units, device.name);
    const mode = device.onHost || training ? "gpu" : choice.mode;
    const hostFlash = mode === "gpu" ? flash : hasFlashAttention(spec, cpu, kv_dtype);
    if (mode !== "gpu") await openWideProducts(cpu, model);
    const rates = mode === "auto" ? await weightRates(device, cpu, mainDType(model)) : undefined;
    const planFor = (context: number) => {
      const measured = { context, max_sequences, kv_dtype, adapter };
      const scratch = measureScratch(spec, model.units, device, { ...measured, flash });
      const hostScratch =
        mode === "gpu" ? 0 : measureScratch(spec, model.units, cpu, { ...measured, flash: hostFlash });
      const planOf = (units: readonly Unit[], packed: PackedBytes | undefined, way?: Way) => {
        const sizes = unitSizes(units, device, cpu, packed);
        const most = Math.max(scratch, way?.scratch ?? 0);
        const own = fixedBytes(spec, model.units, device, { ...measured, scratch: most });
        const { whole, sentence } = logitsChoices(spec.vocab_size, context, max_sequences);
        const request = { units, sizes, compute: device.kind, budgets, wanted, wholeStages };
        const plain = (fixed: FixedBytes) => () => makePlan({ ...request, fixed });
        // What trains gives texts meanwhile, and is looked at, but by the sentence.
        if (way) return plain({ ...own, logits: sentence, training: way.bytes })();
        const hybrid =
          mode === "gpu" ? undefined : hybridRequest(spec, units, cpu, own, choice, hostScratch, adapter);
        const divided = (fixed: FixedBytes) => () =>
          makePlan({ ...request, wholeStages: !headersCanChange(cpu), fixed, hybrid });
        // Where weights may move, they make room; where they may not, there is room for less.
        const rooms = wanted.includes(undefined) ? [whole] : [whole, sentence];
        const kinds = mode === "gpu" ? [plain] : mode === "hybrid" ? [divided] : [plain, divided];
        const plans = kinds.map(
          (kind) => () => firstThatFits(rooms.map((logits) => kind({ ...own, logits }))),
        );
        return rates ? fastest(plans, units, rates) : firstThatFits(plans);
      };
      const planned = (way?: Way) => planOf(model.units, stayPacked, way);
      const replan = stayPacked && ((units: readonly Unit[]) => planOf(units, knownPacked));
      return { ...(ways ? cheapest(ways, planned) : { plan: planned(), way: undefined }), replan };
    };
    const {
      context,
      plan,
      way,
      replan,
      notes: chosen,
    } = chooseContext(
      spec,
      options.context_length,
      (budgets[device.kind] ?? Number.POSITIVE_INFINITY) / max_sequences,
      kv_dtype,
      planFor,
    );
    if (device !== cpu && !plan.host) await cpu.closeProducts(); // planned for only where the CPU computes
    const packing = options.offload_packed ? packingOf(plan, model.units, wanted, replan) : undefined;
    const expected = packing ? withPacked(plan, model.units, expectedPacked) : plan;
    const sizes = { context, max_sequences, rows: context * max_sequences };
    const decided = { ...skeleton, spec, plan: expected, packing, kv_dtype, ...sizes, flash, hostFlash, way };
    const said = joinNotes(notes, chosen, [
      ...unusedBudgets(options, device),
      ...unusedCompute(options, device),
    ]);
    return { ...decided, notes: said, cpu, device, budgets };
  } catch (error) {
    return await undoAfter(error, [() => closeDevices({ device, cpu })]);
  }
}

/** The type of most weights. */
function mainDType({ bytesByDType }: ModelUnits): DType {
  const types = Object.entries(bytesByDType) as [DType, number][];
  return types.reduce((most, one) => (one[1] > most[1] ? one : most))[0];
}

function unusedCompute({ compute, training }: EngineOptions, device: Device): string[] {
  if (compute === undefined || compute === "auto") return [];
  if (device.onHost)
    return ["compute is not used: everything is computed on the CPU, on which the model was opened"];
  if (training && compute !== "gpu")
    return [`compute is not used: all training is computed on ${device.name}`];
  return [];
}

/** Wide products for a model that is large enough. */
async function openWideProducts(device: Device, { units, parameters }: ModelUnits): Promise<void> {
  if (parameters < LEAST_PARAMETERS && productMode() !== "all") return;
  await openProducts(
    device,
    units.flatMap((u) => Object.values(u.matrices).map((m) => m.dtype)),
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

/** The plan of the fewest seconds a token, of those that fit; of equals the first. Throws the last's BudgetError. */
function fastest(plans: readonly (() => Plan)[], units: readonly Unit[], rates: WeightRates): Plan {
  let best: { plan: Plan; seconds: number } | undefined;
  let refusal: unknown;
  for (const make of plans) {
    try {
      const plan = make();
      const seconds = tokenSeconds(plan, units, { ...rates, disk: USUAL_DISK });
      if (!best || seconds < best.seconds) best = { plan, seconds };
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      refusal = error;
    }
  }
  if (best) return best.plan;
  throw refusal;
}

/** The way that costs least, of those that fit, then of its variants. Throws the BudgetError of the one that needs least. */
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
  const variants = best?.way.variants?.() ?? [];
  if (best && variants.length > 0)
    return cheapest([{ ...best.way, variants: undefined }, ...variants], planned);
  if (best) return best;
  throw refusal ?? new ConfigError("training: there is no way to keep its state");
}

function fixedBytes(
  spec: ModelSpec,
  units: readonly Unit[],
  device: Device,
  o: Omit<MeasureOptions, "flash"> & { readonly scratch: number },
): FixedBytes {
  return {
    kv: kvBytes(spec, o.kv_dtype, o.context * o.max_sequences),
    activations: inputBytes(
      o.context,
      spec.hidden_size,
      gatheredRowBytes(units),
      o.max_sequences,
      spec.windows,
    ),
    scratch: o.scratch,
    vectors: vectorBytes(units),
    ...(o.adapter && { adapter: adapterBytes(o.adapter) }),
    ...(device.products && { products: device.products.bytes }),
    rows: rowStagingBytes(gatheredTables(units)),
    staging: Math.max(loadStaging(units, device.memory), adapterStaging(o.adapter)),
  };
}

/** `own`: what the GPU takes if it computes everything. */
function hybridRequest(
  spec: ModelSpec,
  units: readonly Unit[],
  cpu: Device,
  own: FixedBytes,
  { computeOf }: ComputeChoice,
  scratch: number,
  adapter: Adapter | undefined,
): HybridRequest {
  const stages = byStage(units);
  const targets = (stage: number) => {
    const names = new Set(Object.values(spec.stages[stage]?.weights ?? {}).map(({ name }) => name));
    return (adapter?.targets ?? []).filter(({ weight }) => names.has(weight.name));
  };
  const lasting = stages.map((stage) => vectorBytes(stage.units) + targetBytes(targets(stage.index)));
  return {
    computeOf,
    kvOf: (stage) => (spec.stages[stage]?.layer === undefined ? 0 : own.kv / spec.num_layers),
    lastingOf: (stage) => lasting[stage] ?? 0,
    host: { activations: own.activations, scratch, products: cpu.products?.bytes ?? 0 },
    sizes: unitSizes(units, cpu, cpu).cpu,
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

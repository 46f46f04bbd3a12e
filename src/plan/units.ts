// Joins a model's stages with a checkpoint: which tensor each weight is, in which type it will be held, and which
// units it moves as. Shapes and bytes only; nothing is allocated.

import type { DType, FloatDType } from "../backend/ggml/dtypes.ts";
import { rowBytes } from "../backend/ggml/tensor.ts";
import { UnsupportedError } from "../base/errors.ts";
import { listed } from "../base/notes.ts";
import { checkSkeleton, ModelModules } from "../formats/index.ts";
import { rowsOf } from "../formats/slices.ts";
import type { Checkpoint, TensorEntry } from "../formats/types.ts";
import type { ModelSpec, Stage, WeightSpec } from "../models/spec.ts";
import { heldName, resolveName } from "../models/ties.ts";

/** A tensor of the checkpoint as it will be held in memory; stages may share one (a tied head). */
export interface Matrix {
  readonly name: string;
  readonly source: TensorEntry;
  /** Type in memory. */
  readonly dtype: DType;
  /** ggml's order once in place: [in, out]. */
  readonly ne: readonly [number, number];
  /** The checkpoint holds it as [in, out]; it is turned round on its way to the device. */
  readonly transposed: boolean;
  /** It stays as the checkpoint holds it and is turned round in every graph, so that it can be trained where it lies. */
  readonly kept: boolean;
  /** Bytes in place. */
  readonly bytes: number;
  /** Only rows of it are ever used, so that it need not be in memory to be used. */
  readonly rowsOnly: boolean;
  /** A packed copy that is read in its place where all of it streams from disk. */
  readonly packed?: PackedRange;
  /** The matrices of some of its rows each, in order, that it is placed and moved as; absent where it is one piece. */
  readonly rowBlocks?: readonly Matrix[];
  /** Where this is some rows of another matrix: that one's name, the first of them, and how many that has. */
  readonly within?: { readonly name: string; readonly first: number; readonly of: number };
}

/** Where the packed form of a matrix lies in one of the open files. All in bytes. */
export interface PackedRange {
  readonly file: number;
  readonly offset: number;
  readonly bytes: number;
}

/** A vector: always resident, in f32. */
export interface Vector {
  readonly key: string;
  readonly source: TensorEntry;
  readonly length: number;
}

/**
 * What is placed and moved as one: the weights of a stage; of a large stage a matrix, or of a large matrix some whole rows.
 * The units of a stage follow one another in the order in which it uses them.
 */
export interface Unit {
  readonly index: number;
  /** A module path; some rows of a matrix are "lm_head[0:4096]". */
  readonly name: string;
  readonly stage: Stage;
  /** Index of the stage among the model's. */
  readonly stageIndex: number;
  /** Key within the stage -> matrix. A shared matrix appears in each stage that uses it. */
  readonly matrices: Readonly<Record<string, Matrix>>;
  /** The matrices that are placed with this unit; a shared one belongs to the last stage that uses all of it. */
  readonly owned: readonly Matrix[];
  /** Of the whole stage, in its first unit. */
  readonly vectors: readonly Vector[];
  /** Computed vectors of the whole stage, in its first unit; f32. */
  readonly constants: Readonly<Record<string, Float32Array>>;
  /** Bytes of the owned matrices in place. */
  readonly bytes: number;
  /** Its matrices are used by the row: its home costs little whatever it is. */
  readonly rowsOnly: boolean;
}

/** Units of one stage, all or (of a head, whose rows are results of their own) some. */
export interface StageUnits {
  readonly index: number;
  readonly stage: Stage;
  readonly units: readonly Unit[];
}

/** The module that a unit is, or whose rows it has some of. */
export function modulePath({ name }: Unit): string {
  return name.replace(/\[\d+:\d+\]$/, "");
}

/** Consecutive units by stage. */
export function byStage(units: readonly Unit[]): StageUnits[] {
  const stages: { index: number; stage: Stage; units: Unit[] }[] = [];
  for (const unit of units) {
    const last = stages.at(-1);
    if (last?.index === unit.stageIndex) last.units.push(unit);
    else stages.push({ index: unit.stageIndex, stage: unit.stage, units: [unit] });
  }
  return stages;
}

export interface ModelUnits {
  readonly units: readonly Unit[];
  /** Elements of all parameters, shared ones once. */
  readonly parameters: number;
  /** Bytes in place by type, shared ones once; vectors counted as f32. */
  readonly bytesByDType: Readonly<Partial<Record<DType, number>>>;
  /** What the checkpoint holds that the model does not use: see base/notes.ts. */
  readonly notes: readonly string[];
}

export interface UnitOptions {
  readonly dtype: "auto" | FloatDType;
  /** Weights stored transposed stay that way in memory, see {@link Matrix.kept}, and stages stay whole: for training. */
  readonly keepLayout?: boolean;
  /** Bytes of the largest unit, if whole rows allow it; {@link UNIT_BYTES} unless a test asks for less. */
  readonly unitBytes?: number;
}

/** Bytes of the largest unit: stages of more are several. Never a function of a budget: it decides how results are rounded. */
export const UNIT_BYTES = 32 * 2 ** 20;

/** Types of weights in files. f64 is for reading only: it becomes f32 at the latest in memory. */
const FLOATS: readonly string[] = ["f32", "f16", "bf16", "f64"];

/** The units of a model over a checkpoint. Throws CheckpointError for missing, extra or misshapen tensors. */
export function modelUnits(spec: ModelSpec, checkpoint: Checkpoint, options: UnitOptions): ModelUnits {
  const resolve = (name: string) => resolveName(spec, checkpoint, name);
  const expected = spec.stages.flatMap((stage) =>
    Object.values(stage.weights).map((w) => ({ name: resolve(w.name), shape: w.shape })),
  );
  const names = spec.stages.flatMap((stage) => Object.values(stage.weights).map((w) => w.name));
  const notes = checkSkeleton(checkpoint, dedupe(expected), {
    ignore: [...spec.ignored, ...Object.keys(spec.tied).map((alias) => new RegExp(`^${literal(alias)}$`))],
    modules: new ModelModules(names, spec.prefix),
    hints: hints(spec, checkpoint),
  });

  const unitBytes = options.keepLayout ? Number.POSITIVE_INFINITY : (options.unitBytes ?? UNIT_BYTES);
  const matrices = new Map<string, Matrix>();
  const owner = new Map<string, number>();
  const split = new Set<string>();
  for (const [index, stage] of spec.stages.entries()) {
    for (const weight of Object.values(stage.weights)) {
      if (weight.shape.length !== 2) continue;
      const name = resolve(weight.name);
      const known = matrices.get(name);
      const matrix = matrixOf(weight, checkpoint.tensors.get(name) as TensorEntry, options);
      matrices.set(name, known ? { ...known, rowsOnly: known.rowsOnly && matrix.rowsOnly } : matrix);
      if (!weight.rows || !owner.has(name)) owner.set(name, index);
      if (!weight.rows) split.add(name);
    }
  }
  for (const name of split) {
    const matrix = matrices.get(name) as Matrix;
    matrices.set(name, withRowBlocks(matrix, unitBytes));
  }

  const units: Unit[] = [];
  for (const [stageIndex, stage] of spec.stages.entries()) {
    const used: Record<string, Matrix> = {};
    const vectors: Vector[] = [];
    for (const [key, weight] of Object.entries(stage.weights)) {
      const name = resolve(weight.name);
      const source = checkpoint.tensors.get(name) as TensorEntry;
      if (weight.shape.length === 2) used[key] = matrices.get(name) as Matrix;
      else vectors.push({ key, source: floatSource(source), length: weight.shape[0] as number });
    }
    const owns = (m: Matrix) => owner.get(m.within?.name ?? m.name) === stageIndex;
    for (const [i, { name, matrices }] of divided(stage, used, owns, unitBytes).entries()) {
      const owned = Object.values(matrices).filter(owns);
      units.push({
        index: units.length,
        name,
        stage,
        stageIndex,
        matrices,
        owned,
        vectors: i === 0 ? vectors : [],
        constants: (i === 0 && stage.constants) || {},
        bytes: owned.reduce((sum, m) => sum + m.bytes, 0),
        rowsOnly: owned.every((m) => m.rowsOnly),
      });
    }
  }
  return { units, notes, ...totals(units, matrices) };
}

/** Rows of a block are a multiple of this, so that each starts where a device's memory may be bound. */
const BLOCK_ROWS = 128;

/** A matrix with its {@link Matrix.rowBlocks}, of about equal size, where it is larger than `most` bytes. */
function withRowBlocks(m: Matrix, most: number): Matrix {
  const [width, rows] = m.ne;
  const largest = Math.max(BLOCK_ROWS, Math.floor(most / (m.bytes / rows) / BLOCK_ROWS) * BLOCK_ROWS);
  const each = Math.ceil(rows / Math.ceil(rows / largest) / BLOCK_ROWS) * BLOCK_ROWS;
  if (m.transposed || each >= rows) return m;
  const rowBlocks: Matrix[] = [];
  for (let first = 0; first < rows; first += each) {
    const n = Math.min(each, rows - first);
    rowBlocks.push({
      ...m,
      name: `${m.name}[${first}:${first + n}]`,
      source: rowsOf(m.source, first, n),
      ne: [width, n],
      bytes: rowBytes(m.dtype, width) * n,
      within: { name: m.name, first, of: rows },
    });
  }
  return { ...m, rowBlocks };
}

/** The units of a stage: itself, or its matrices where they are larger together, or the blocks of a matrix. */
function divided(
  stage: Stage,
  used: Readonly<Record<string, Matrix>>,
  owns: (m: Matrix) => boolean,
  most: number,
): { name: string; matrices: Record<string, Matrix> }[] {
  const entries = Object.entries(used);
  const bytes = entries.reduce((sum, [, m]) => sum + (owns(m) ? m.bytes : 0), 0);
  const whole = { name: stage.name, matrices: { ...used } };
  if (bytes <= most || entries.some(([key]) => stage.weights[key]?.rows)) return [whole];
  return entries.flatMap(([key, m]) => {
    const path =
      entries.length === 1 ? stage.name : (stage.weights[key] as WeightSpec).name.replace(/\.weight$/, "");
    const blocks = m.rowBlocks ?? [m];
    return blocks.map((block) => ({
      name: block.within ? `${path}${block.name.slice(block.within.name.length)}` : path,
      matrices: { [key]: block },
    }));
  });
}

/** What may explain that weights are missing or have other shapes. */
function hints(spec: ModelSpec, checkpoint: Checkpoint): string[] {
  const found: string[] = [];
  if (spec.defaulted.length > 0)
    found.push(`config.json does not name some sizes, so these are defaults: ${listed(spec.defaulted, 9)}`);
  const head = spec.stages.find(({ kind }) => kind === "head")?.weights.head?.name;
  if (head !== undefined && !spec.tied[head] && heldName(spec, checkpoint, head) === undefined)
    found.push(
      `config.json says that ${head} is a matrix of its own; tie_word_embeddings: true makes it the embedding`,
    );
  return found;
}

/** The same units with some matrices, by name, replaced wherever they appear. */
export function withMatrices(units: readonly Unit[], moved: ReadonlyMap<string, Matrix>): Unit[] {
  const now = (m: Matrix): Matrix => ({
    ...(moved.get(m.name) ?? m),
    ...(m.rowBlocks && { rowBlocks: m.rowBlocks.map(now) }),
  });
  const seen = new Map<Matrix, Matrix>(); // what is one object stays one
  const once = (m: Matrix): Matrix => {
    const known = seen.get(m) ?? now(m);
    seen.set(m, known);
    return known;
  };
  return units.map((u) => ({
    ...u,
    matrices: Object.fromEntries(Object.entries(u.matrices).map(([key, m]) => [key, once(m)])),
    owned: u.owned.map(once),
  }));
}

function totals(units: readonly Unit[], matrices: ReadonlyMap<string, Matrix>) {
  const bytesByDType: Partial<Record<DType, number>> = {};
  let parameters = 0;
  for (const m of matrices.values()) {
    parameters += m.ne[0] * m.ne[1];
    bytesByDType[m.dtype] = (bytesByDType[m.dtype] ?? 0) + m.bytes;
  }
  for (const v of units.flatMap((u) => u.vectors)) {
    parameters += v.length;
    bytesByDType.f32 = (bytesByDType.f32 ?? 0) + v.length * 4;
  }
  return { parameters, bytesByDType };
}

function matrixOf(weight: WeightSpec, source: TensorEntry, { dtype, keepLayout }: UnitOptions): Matrix {
  const [rows, columns] = weight.shape as [number, number];
  const stored = floatSource(source).dtype;
  const target = dtype !== "auto" ? dtype : stored === "f64" ? "f32" : stored;
  const transposed = weight.transposed ?? false;
  const kept = transposed && (keepLayout ?? false);
  const ne: [number, number] = transposed && !kept ? [rows, columns] : [columns, rows];
  return {
    name: source.name,
    source,
    dtype: target,
    ne,
    transposed,
    kept,
    bytes: rowBytes(target, ne[0]) * ne[1],
    rowsOnly: weight.rows !== undefined,
  };
}

function floatSource(source: TensorEntry): TensorEntry {
  if (!FLOATS.includes(source.dtype)) {
    throw new UnsupportedError(
      `tensor ${source.name} is ${source.dtype}; weights of f64, f32, f16 and bf16 can be run`,
    );
  }
  return source;
}

function dedupe<T extends { name: string }>(items: readonly T[]): T[] {
  return [...new Map(items.map((item) => [item.name, item])).values()];
}

function literal(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

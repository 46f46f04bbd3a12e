// A parameter's training state: the f32 master copy, the optimizer's moments and the copy that computes, each in a region
// of whatever tier. Holds regions; stepping them is the updater's business.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { bytesOf, type FloatDType } from "../../backend/ggml/dtypes.ts";
import { ConfigError } from "../../base/errors.ts";
import type { Region, Store } from "../../memory/store.ts";
import { f32, type MomentFormat, type UpdateRule } from "./rules/rule.ts";

/** The copy of a parameter that graphs compute with; written after every step. */
export interface WorkingCopy {
  /** `elements` values of `dtype`. */
  readonly region: Region;
  readonly dtype: FloatDType;
}

/** Where the values of a region that is stepped in place are kept, for the step to be taken back. */
export interface Kept {
  /** Memory as large as the region. */
  readonly place: NativeBuffer;
  /** Bytes kept there, from the beginning; the rest of the region has not been changed. */
  bytes: number;
  /** Why what is kept is not whole; empty where it is. */
  torn: string;
}

export interface ParameterState {
  /** As the checkpoint names it. */
  readonly name: string;
  readonly elements: number;
  /** The parameter in f32, `elements` of them. */
  readonly master: Region;
  /** In the order and the formats of the rule. */
  readonly moments: readonly Region[];
  /** Absent where the master copy itself computes. */
  readonly working?: WorkingCopy | undefined;
  /** Absent where a step is for good. */
  readonly kept?: ReadonlyMap<Region, Kept> | undefined;
}

export const MASTER = f32("master weights");

/** Bytes of the master copy and of each moment of a parameter. */
export function stateBytes(rule: UpdateRule, elements: number): { master: number; moments: number[] } {
  return {
    master: MASTER.bytes(elements),
    moments: rule.moments.map((format) => format.bytes(elements)),
  };
}

/** Where the parts of a state go. */
export interface StateStores {
  readonly master: Store;
  readonly moments: Store;
  readonly working?: { readonly store: Store; readonly dtype: FloatDType } | undefined;
}

/**
 * Regions of zeros for a parameter: moments as they are before the first step; the master copy and the working copy are
 * the caller's to write. Throws what Store.allocate throws, and then nothing is left behind.
 */
export async function allocateState(
  name: string,
  elements: number,
  rule: UpdateRule,
  stores: StateStores,
): Promise<ParameterState> {
  if (!Number.isSafeInteger(elements) || elements < 1) {
    throw new ConfigError(`${name}: ${elements} is not a number of elements`);
  }
  const taken: Region[] = [];
  const take = async (store: Store, format: MomentFormat): Promise<Region> => {
    const region = await store.allocate(format.bytes(elements), format.name);
    taken.push(region);
    return region;
  };
  try {
    const master = await take(stores.master, MASTER);
    const moments: Region[] = [];
    for (const format of rule.moments) moments.push(await take(stores.moments, format));
    const { working } = stores;
    if (!working) return { name, elements, master, moments };
    const region = await take(working.store, workingFormat(working.dtype));
    return { name, elements, master, moments, working: { region, dtype: working.dtype } };
  } catch (error) {
    await Promise.allSettled(taken.map((region) => region.free()));
    throw error;
  }
}

export function workingFormat(dtype: FloatDType): MomentFormat {
  return { name: "working weights", bytes: (elements) => bytesOf(dtype, elements) };
}

/** Every region of a state. */
export function regionsOf(state: ParameterState): Region[] {
  return [state.master, ...state.moments, ...(state.working ? [state.working.region] : [])];
}

/** Frees every region. May be called twice. Throws the first error, after all were tried. */
export async function freeState(state: ParameterState): Promise<void> {
  const results = await Promise.allSettled(regionsOf(state).map((region) => region.free()));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

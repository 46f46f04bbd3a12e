// What the crew and its threads say to each other. Records only.
import type { KernelLibrary } from "./kernel.ts";

/** What a thread is started with. */
export interface CrewThreadData {
  /** File of koffi, and of the base library of ggml. */
  readonly koffi: string;
  readonly ggml: string;
  readonly library: KernelLibrary;
  /** 0: the one that computes graphs. */
  readonly index: number;
  readonly scratch: { readonly address: number; readonly bytes: number };
  /** Bytes of the scratch's beginning that are for unpacked weights. */
  readonly unpacking: number;
}

/** One graph, sent to all threads. Handles are numbers. */
export interface GraphJob {
  readonly backend: number;
  readonly graph: number;
  /** An empty graph with room for all nodes. */
  readonly segment: number;
  readonly products: Float64Array;
  /** {@link STEP}, {@link FAILED}, then per product the next tile and the tiles that are done. */
  readonly control: Int32Array;
}

export type CrewReply =
  | { readonly ready: true; readonly hasBf16: boolean }
  | { readonly done: true; readonly problem?: string | undefined }
  | { readonly ended: true }
  | { readonly problem: string };

/** The product under way plus one; negative when the graph is done. */
export const STEP = 0;
export const FAILED = 1;
/** In {@link FAILED}: a thread is gone, and what it had taken will not be done. */
export const DIED = 2;
export const nextTile = (product: number) => 2 + 2 * product;
export const doneTiles = (product: number) => 3 + 2 * product;

/** Words of {@link GraphJob.control} for so many products. */
export function controlWords(products: number): number {
  return 2 + 2 * products;
}

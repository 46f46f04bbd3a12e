// How many tokens a sequence may have, and why no more: what the config says, what scaling of rotary positions makes of
// it, and layers that do not attend to everything, which are computed only as far as there is no difference.

import { UnsupportedError } from "../base/errors.ts";
import { counted } from "../base/notes.ts";
import { shown } from "../base/shown.ts";
import { MAX_SIZE, type RawConfig } from "./config.ts";
import type { RopeConfig } from "./rope-config.ts";

export interface Positions {
  /** Tokens a sequence may have without more being asked for. */
  readonly usual: number;
  /** What may be asked for. */
  readonly most: number;
  /** What `most` follows from, for a message. */
  readonly end: string;
  readonly notes: readonly string[];
}

/** Positions that are a learned table of `rows`: there are no others. */
export function learnedPositions(rows: number): Positions {
  return { usual: rows, most: rows, end: "its table of positions has no more rows", notes: [] };
}

/**
 * Positions of a rotary model. Scaling by a factor makes the original length that many times longer, so the limit is that
 * or the config's number, whichever is more; plain frequencies go on beyond it, which the model was not trained for.
 */
export function rotaryPositions({ method, values, original, maxPositions }: RopeConfig): Positions {
  if (method === "dynamic" || method === "longrope") {
    const most = method === "dynamic" ? maxPositions : Math.floor(original);
    const end = `rope type "${method}" is computed up to the length before scaling, beyond which frequencies change with the length`;
    const note = `positions end at ${most}: ${end}`;
    return { usual: most, most, end, notes: [note] };
  }
  const factor = values.has("factor") && method !== "default" ? values.positive("factor") : 1;
  const usual = Math.min(MAX_SIZE, Math.max(maxPositions, Math.floor(original * factor)));
  return { usual, most: MAX_SIZE, end: "positions are 32-bit numbers", notes: [] };
}

/** What a family's class says of windows where the config does not. */
export interface Windows {
  /** Tokens that a sliding layer attends to, or undefined where no layer slides. */
  readonly window: number | undefined;
  /** Which layers slide if `layer_types` does not say. */
  readonly slides: (layer: number) => boolean;
}

/**
 * Windows of families whose class does not have any: transformers' cache drops what lies outside of one that the config
 * names all the same.
 */
export function unnamedWindows(config: RawConfig): Windows {
  const key = config.has("sliding_window") ? "sliding_window" : "attention_chunk_size";
  return { window: config.has(key) ? config.size(key) : undefined, slides: () => true };
}

/**
 * `positions` as far as all `layers` attend to everything: to the window of the smallest sliding layer. Up to there a
 * window changes nothing. Throws ConfigError, and UnsupportedError for other types of layers.
 */
export function withinWindows(
  positions: Positions,
  config: RawConfig,
  layers: number,
  windows: Windows,
): Positions {
  const sliding = slidingLayers(config, layers, windows);
  if (sliding === 0) return positions;
  const { window } = windows;
  if (window === undefined) config.fail("sliding_window", `is not given, but ${sliding} layers slide`);
  if (window >= positions.most) return positions;
  const end = `${counted(sliding, "layer")} of ${layers} attend to the last ${window} tokens only, which is supported up to that length`;
  const usual = Math.min(positions.usual, window);
  const notes = usual < positions.usual ? [`positions end at ${usual}: ${end}`] : [];
  return { usual, most: window, end, notes: [...positions.notes, ...notes] };
}

function slidingLayers(config: RawConfig, layers: number, { window, slides }: Windows): number {
  const types = config.raw("layer_types");
  if (types === undefined || types === null) {
    if (window === undefined) return 0;
    let count = 0;
    for (let layer = 0; layer < layers; layer++) count += Number(slides(layer));
    return count;
  }
  if (!Array.isArray(types) || types.length !== layers)
    config.fail("layer_types", `expected a list of ${layers} types, one a layer, got ${shown(types)}`);
  let count = 0;
  for (const type of types) {
    if (type === "sliding_attention") count++;
    else if (type !== "full_attention" && type !== "attention") {
      throw new UnsupportedError(
        `${config.where}: layer_types has ${shown(type)}; supported: full_attention, sliding_attention`,
      );
    }
  }
  return count;
}

// Chooses for how many tokens a model is opened: as asked, or the most that costs no weights their place.
import { BudgetError, ConfigError } from "../../base/errors.ts";
import { joinNotes } from "../../base/notes.ts";
import { formatBytes } from "../../memory/sizes.ts";
import type { ModelSpec } from "../../models/spec.ts";
import type { Plan } from "../../plan/plan.ts";
import type { Unit } from "../../plan/units.ts";
import { type KvDType, kvBytes } from "../state/kv-cache.ts";
import type { Skeleton, Way } from "./prepared.ts";

/** The longest default context. Tokens. */
const DEFAULT_CONTEXT = 4096;
const SMALLEST_DEFAULT_CONTEXT = 256;
/** A shorter context than this is no help to anybody. */
const SHORTEST_ADVISED = 32;
/** The default context is halved until its cache is at most this part of the budget. */
const KV_SHARE = 1 / 8;
/** It is not made shorter than this for the sake of weights that would stay otherwise. */
const SHORTEST_WEIGHED = 512;
/** Nor while a shorter one would not save this part of what streams. */
const WORTH_SHORTENING = 0.05;
/** A plan, and what it was made for. */
export interface Planned {
  readonly plan: Plan;
  readonly way: Way | undefined;
  /** The same with packed weights in RAM, where they may be. */
  readonly replan?: ((units: readonly Unit[]) => Plan) | undefined;
}

/** A plan for so many tokens of context, and what is to be said of them. */
interface Contextual extends Planned {
  readonly context: number;
  readonly notes: readonly string[];
}

/** The spec with as many positions as were asked for, and a note where those are more than the model was made for. */
export function withPositions({ spec, notes }: Skeleton, asked = 0): Pick<Skeleton, "spec" | "notes"> {
  if (!(asked > spec.max_positions) || asked > spec.positions.most) return { spec, notes };
  const note = `context_length ${asked} is more than the ${spec.max_positions} positions of config.json: beyond those the model was not trained`;
  return { spec: { ...spec, max_positions: asked }, notes: joinNotes(notes, [note]) };
}

/** The context asked for, or the longest default whose cache is a fair part of the budget and whose plan fits. */
export function chooseContext(
  spec: ModelSpec,
  asked: number | undefined,
  budget: number,
  kv: KvDType,
  planFor: (context: number) => Planned,
): Contextual {
  if (asked !== undefined) {
    if (!Number.isInteger(asked) || asked < 1)
      throw new ConfigError(`context_length is ${asked}, expected a whole number above 0`);
    if (asked > spec.positions.most) {
      const { most, end } = spec.positions;
      throw new ConfigError(`context_length is ${asked}, the model has positions for ${most} tokens: ${end}`);
    }
    return { context: asked, notes: [], ...withAdvice(asked, planFor) };
  }
  let context = Math.min(spec.max_positions, DEFAULT_CONTEXT);
  const share = budget * KV_SHARE;
  while (context > SMALLEST_DEFAULT_CONTEXT && kvBytes(spec, kv, context) > share)
    context = Math.ceil(context / 2);
  for (;;) {
    try {
      return weighed(context, planFor);
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      if (context <= SMALLEST_DEFAULT_CONTEXT) return { context, notes: [], ...withAdvice(context, planFor) };
      context = Math.max(SMALLEST_DEFAULT_CONTEXT, Math.ceil(context / 2));
    }
  }
}

/** The default context, shorter where its cache takes the place of weights that would then stream. Throws BudgetError. */
function weighed(longest: number, planFor: (context: number) => Planned): Contextual {
  const streams = ({ plan }: Planned) => plan.streamed.cpu + plan.streamed.disk;
  const first = { context: longest, ...planFor(longest) };
  const options = [first];
  if (streams(first) > 0)
    for (let c = Math.ceil(longest / 2); c >= SHORTEST_WEIGHED; c = Math.ceil(c / 2))
      options.push({ context: c, ...planFor(c) });
  const least = streams(options.at(-1) ?? first);
  const bound = least / (1 - WORTH_SHORTENING);
  const chosen = options.find((o) => streams(o) <= bound) ?? first;
  if (chosen === first) return { ...first, notes: [] };
  const saved = formatBytes(streams(first) - streams(chosen));
  const note =
    `room is kept for ${chosen.context} tokens of context: for ${longest}, ${saved} more of the weights would have to be ` +
    `read for every token; context_length ${longest} (--context-length ${longest}) asks for it`;
  return { ...chosen, notes: [note] };
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

// What a template may use: steps, characters and elements created or searched, and levels of nesting. The budget of the
// render that is running is held here, because every operation on values draws from it; renders do not overlap.
import { TemplateError } from "./errors.ts";

/** Limits of one render. Those on steps and characters grow with the variables that the caller brings. */
export interface TemplateLimits {
  /** Expressions evaluated, statements run and items iterated. Default 4 million. */
  readonly steps?: number | undefined;
  /** Characters created or searched; an element of a list counts as eight. Default 32 million. */
  readonly characters?: number | undefined;
  /** Macros, calls and recursive loops within one another. Default 200, about where Python stops. */
  readonly depth?: number | undefined;
  /** The time that strftime_now tells. Default: now. */
  readonly now?: Date | undefined;
}

/** The deepest nesting of lists and dicts that is printed, compared or taken from the caller. */
export const MAX_NESTING = 200;

const DEFAULTS = { steps: 4_000_000, characters: 32_000_000, depth: 200 };

interface Budget {
  steps: number;
  characters: number;
  depth: number;
  longest: number;
  readonly limits: { steps: number; characters: number; depth: number };
}

/** Outside of renders there is no limit. */
const UNLIMITED = Number.POSITIVE_INFINITY;
let current: Budget = {
  steps: UNLIMITED,
  characters: UNLIMITED,
  depth: UNLIMITED,
  longest: UNLIMITED,
  limits: { ...DEFAULTS },
};

/** Runs `run` with a budget of its own. */
export function withBudget<T>(limits: TemplateLimits, run: () => T): T {
  const given = {
    steps: limits.steps ?? DEFAULTS.steps,
    characters: limits.characters ?? DEFAULTS.characters,
    depth: limits.depth ?? DEFAULTS.depth,
  };
  const outer = current;
  current = { ...given, longest: given.characters / 2, limits: given };
  try {
    return run();
  } finally {
    current = outer;
  }
}

/** Makes room for variables of this many characters, which the caller answers for. */
export function allowFor(characters: number): void {
  current.steps += 8 * characters;
  current.characters += 32 * characters;
  current.longest += 4 * characters;
}

export function step(): void {
  if (--current.steps < 0) {
    throw exceeded(`takes more than ${current.limits.steps} steps`);
  }
}

export function steps(count: number): void {
  current.steps -= count;
  if (!(current.steps >= 0)) throw exceeded(`takes more than ${current.limits.steps} steps`);
}

/** Called before `count` characters are created or searched. */
export function spend(count: number): void {
  if (!(count <= current.characters)) {
    throw exceeded(`makes or searches more than ${current.limits.characters} characters`);
  }
  current.characters -= count;
}

/** Called before a list, tuple or dict of `count` elements is created. */
export function spendItems(count: number): void {
  spend(8 * count + 8);
}

/** Called before two texts are put together: the engine shares them, so that it costs little but can grow fast. */
export function spendJoined(length: number): void {
  if (length > current.longest) {
    throw exceeded(`makes a text of more than ${Math.round(current.longest)} characters`);
  }
  spend(32 + (length >>> 7));
}

/** Runs `run` a level deeper. */
export function deeper<T>(run: () => T): T {
  if (--current.depth < 0) {
    current.depth++;
    throw exceeded(`calls itself more than ${current.limits.depth} levels deep`);
  }
  try {
    return run();
  } finally {
    current.depth++;
  }
}

export function tooDeep(): never {
  throw exceeded(`has values nested more than ${MAX_NESTING} levels deep`);
}

function exceeded(what: string): TemplateError {
  return new TemplateError("failed", `the template ${what}, which is the limit for templates`);
}

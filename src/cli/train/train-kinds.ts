// What an option of training may hold: how its value is read from the command line, and from a config file. Which options
// there are is in train-options.ts.
import { parseJson } from "../../base/json.ts";
import { parseSize } from "../../memory/sizes.ts";

/** One kind of value. Both readers throw an Error that says what was expected, without naming the option. */
export interface OptionKind<T> {
  /** Of the command line. */
  text(text: string): T;
  /** Of a config file. */
  json(value: unknown): T;
}

function expected(what: string): never {
  throw new Error(`Expected ${what}.`);
}

function kind<T>(
  what: string,
  text: (text: string) => unknown,
  fits: (value: unknown) => value is T,
): OptionKind<T> {
  const json = (value: unknown): T => (fits(value) ? value : expected(what));
  return { json, text: (given) => json(text(given)) };
}

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";
const isTexts = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.length > 0 && value.every(isText);
const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const toNumber = (text: string) => (text.trim() === "" ? undefined : Number(text));

export const textOption = kind("a text", (given) => given, isText);
/** The library says which numbers it accepts. */
export const numberOption = kind("a number", toNumber, isNumber);
export const whole = kind(
  "a whole number, 0 or more",
  toNumber,
  (value): value is number => Number.isSafeInteger(value) && (value as number) >= 0,
);
export const count = kind(
  "a whole number above 0",
  toNumber,
  (value): value is number => Number.isSafeInteger(value) && (value as number) > 0,
);
/** Separated by commas, or a list. */
export const texts = kind<readonly string[]>("a list of names, separated by commas", separated, isTexts);
export const pair = kind<readonly [number, number]>(
  "two numbers, separated by a comma",
  (given) => separated(given).map(toNumber),
  (value): value is readonly [number, number] =>
    Array.isArray(value) && value.length === 2 && value.every(isNumber),
);
/** On the command line the option's presence, or its absence with "no-" before it. */
export const onOff = kind<boolean>(
  "true or false",
  () => true,
  (v): v is boolean => typeof v === "boolean",
);

/** The same, or nothing at all. */
export const patterns = kind<readonly string[]>(
  "a list of names, separated by commas",
  (given) => (given.trim() === "" ? [] : separated(given)),
  (value): value is readonly string[] => Array.isArray(value) && value.every(isText),
);

/** Paths: an option that may be repeated, one path or a list of them. A path may have a comma in it. */
export const paths: OptionKind<readonly string[]> = {
  text: (given) => (given === "" ? expected("a path") : [given]),
  json: (value) => (isText(value) ? [value] : isTexts(value) ? value : expected("a path or a list of paths")),
};

/** Module names, or one text with a meaning of its own: PEFT's "all-linear". */
export const modules: OptionKind<string | readonly string[]> = {
  text: (given) => (given === "all-linear" ? given : texts.text(given)),
  json: (value) => (isText(value) ? value : texts.json(value)),
};

/** `true`, or a path. */
export const pathOrOn: OptionKind<boolean | string> = {
  text: (given) => given,
  json: (value) => (typeof value === "boolean" || isText(value) ? value : expected("true, false or a path")),
};

/** `false`, or a path. */
export const pathOrOff: OptionKind<false | string> = {
  text: (given) => (given === "" ? expected("a path") : given),
  json: (value) => (value === false || isText(value) ? value : expected("a path, or false")),
};

/** Bytes, as a number or "6GiB". */
export const sizeOption: OptionKind<number> = {
  text: (given) => parseSize(given),
  json: (value) => parseSize(value),
};

/** Numbers by name, as JSON. */
export const numbersByName: OptionKind<Readonly<Record<string, number>>> = {
  text: (given) => numbersByName.json(fromJson(given)),
  json: (value) => {
    const isMap = typeof value === "object" && value !== null && !Array.isArray(value);
    if (isMap && Object.keys(value).length > 0 && Object.values(value).every(isNumber))
      return value as Record<string, number>;
    return expected('a number for each pattern: {"q_proj": 16}');
  },
};

function fromJson(given: string): unknown {
  try {
    return parseJson(given);
  } catch (error) {
    throw new Error(`Not JSON (${error instanceof Error ? error.message : String(error)}).`);
  }
}

/** A tier's name, or an object with a tier for each module. The engine checks names against the model. */
export const deviceMap: OptionKind<string | Readonly<Record<string, string>>> = {
  text: (given) => {
    if (!given.startsWith("{")) return textOption.text(given);
    return deviceMap.json(fromJson(given));
  },
  json: (value) => {
    if (isText(value)) return value;
    const isMap = typeof value === "object" && value !== null && !Array.isArray(value);
    if (isMap && Object.keys(value).length > 0 && Object.values(value).every(isText))
      return value as Record<string, string>;
    return expected('a tier, or a tier for each module: {"model.layers.0": "cpu"}');
  },
};

/** One of a few names. */
export function oneOf<const T extends string>(names: readonly T[]): OptionKind<T> {
  return kind(
    `one of ${names.join(", ")}`,
    (given) => given,
    (value): value is T => names.includes(value as T),
  );
}

function separated(given: string): string[] {
  return given.split(",").map((part) => part.trim());
}

// The caller's values as values of templates. Only data is taken: what has behaviour of its own is refused by name.
import { allowFor, MAX_NESTING } from "../budget.ts";
import { TemplateError } from "../errors.ts";
import { problemOf, refusal } from "../plain-data.ts";
import { fromNumber, normal } from "./numbers.ts";
import { Dict, PyObject, type Value } from "./types.ts";

interface State {
  readonly seen: Map<object, Value>;
  readonly open: Set<object>;
  size: number;
}

/**
 * The variables of a render, by name. Fields that are undefined are absent, as they are in JSON.
 * @throws TemplateError naming what is not data: functions, dates, bytes, instances of classes, cycles
 */
export function fromVariables(variables: Readonly<Record<string, unknown>>): Map<string, Value> {
  const state: State = { seen: new Map(), open: new Set(), size: 0 };
  const converted = new Map<string, Value>();
  for (const [name, value] of Object.entries(variables)) {
    if (value !== undefined) converted.set(name, convert(value, name, 0, state));
  }
  return converted;
}

function convert(value: unknown, path: string, depth: number, state: State): Value {
  switch (typeof value) {
    case "string":
      count(state, value.length);
      return value;
    case "number":
      return fromNumber(value);
    case "boolean":
      return value;
    case "bigint":
      return normal(value);
    case "undefined":
      return refuse(path, "is undefined");
  }
  if (value === null) return null;
  if (value instanceof PyObject) return value;
  const problem = problemOf(value);
  if (problem !== undefined || typeof value !== "object")
    return refuse(path, problem ?? `is a ${typeof value}`);
  const known = state.seen.get(value);
  if (known !== undefined) return known;
  if (state.open.has(value)) refuse(path, "contains itself");
  if (depth >= MAX_NESTING) refuse(path, `is nested more than ${MAX_NESTING} levels deep`);
  state.open.add(value);
  const converted = convertObject(value, path, depth, state);
  state.open.delete(value);
  state.seen.set(value, converted);
  return converted;
}

function convertObject(value: object, path: string, depth: number, state: State): Value {
  if (Array.isArray(value)) {
    count(state, 8 * value.length);
    return Array.from(value, (item, i) =>
      item === undefined ? null : convert(item, `${path}[${i}]`, depth + 1, state),
    );
  }
  const dict = new Dict();
  for (const [key, item] of Object.entries(value)) {
    if (item === undefined) continue;
    count(state, 32 + key.length);
    dict.set(key, convert(item, `${path}.${key}`, depth + 1, state));
  }
  return dict;
}

function count(state: State, characters: number): void {
  state.size += characters;
  allowFor(characters);
}

function refuse(path: string, what: string): never {
  throw new TemplateError("failed", refusal(path, what));
}

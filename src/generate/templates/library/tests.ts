// Tests: what stands after "is".
import type { NativeFunction, Runtime } from "../compile/runtime.ts";
import { type Comparison, contains, equals, isIterable, ordered } from "../values/compare.ts";
import { binary } from "../values/operators.ts";
import { str } from "../values/text.ts";
import {
  Callable,
  Dict,
  Float,
  hashKey,
  Markup,
  PyObject,
  PyRange,
  Tuple,
  textOf,
  Undefined,
  type Value,
} from "../values/types.ts";
import { isLower, isUpper } from "../values/unicode.ts";
import { native, nativeWithRuntime } from "./signature.ts";
import { hasCase } from "./str-methods.ts";

const isInt = (value: Value): boolean => typeof value === "number" || typeof value === "bigint";

const of = (run: (value: Value) => boolean): NativeFunction => native("test", ["value"], run);

const remainder = (wanted: number): NativeFunction => of((value) => equals(binary("%", value, 2), wanted));

const comparing = (operator: Comparison): NativeFunction =>
  native(operator, ["/a", "/b"], (a: Value, b: Value) => ordered(operator, a, b));

const equal = native("eq", ["/a", "/b"], (a: Value, b: Value) => equals(a, b));
const unequal = native("ne", ["/a", "/b"], (a: Value, b: Value) => !equals(a, b));

const named = (kind: "filters" | "tests"): NativeFunction =>
  nativeWithRuntime(`test_${kind}`, ["value"], (runtime: Runtime, value: Value) => {
    hashKey(value);
    const name = textOf(value);
    return name !== undefined && runtime.library[kind].has(name);
  });

function isSequence(value: Value): boolean {
  if (textOf(value) !== undefined || Array.isArray(value)) return true;
  return (
    value instanceof Tuple || value instanceof Dict || value instanceof PyRange || value instanceof Undefined
  );
}

/** Values that are small in Python are one object; the others are compared as objects. */
const sameAs = (a: Value, b: Value): boolean => a === b;

const loops = (value: Value): boolean => value instanceof PyObject && value.typeName === "LoopContext";

export const TESTS: ReadonlyMap<string, NativeFunction> = new Map<string, NativeFunction>([
  ["odd", remainder(1)],
  ["even", remainder(0)],
  [
    "divisibleby",
    native("test_divisibleby", ["value", "num"], (a: Value, b: Value) => equals(binary("%", a, b), 0)),
  ],
  ["defined", of((value) => !(value instanceof Undefined))],
  ["undefined", of((value) => value instanceof Undefined)],
  ["filter", named("filters")],
  ["test", named("tests")],
  ["none", of((value) => value === null)],
  ["boolean", of((value) => typeof value === "boolean")],
  ["false", of((value) => value === false)],
  ["true", of((value) => value === true)],
  ["integer", of(isInt)],
  ["float", of((value) => value instanceof Float)],
  ["lower", of((value) => hasCase(str(value), isLower, isUpper))],
  ["upper", of((value) => hasCase(str(value), isUpper, isLower))],
  ["string", of((value) => textOf(value) !== undefined)],
  ["mapping", of((value) => value instanceof Dict)],
  ["number", of((value) => isInt(value) || typeof value === "boolean" || value instanceof Float)],
  ["sequence", of(isSequence)],
  ["iterable", of((value) => isIterable(value) || loops(value))],
  ["callable", of((value) => value instanceof Callable || value instanceof Undefined)],
  ["sameas", native("test_sameas", ["value", "other"], sameAs)],
  ["escaped", of((value) => value instanceof Markup)],
  ["in", native("test_in", ["value", "seq"], (value: Value, container: Value) => contains(container, value))],
  ["==", equal],
  ["eq", equal],
  ["equalto", equal],
  ["!=", unequal],
  ["ne", unequal],
  [">", comparing(">")],
  ["gt", comparing(">")],
  ["greaterthan", comparing(">")],
  ["ge", comparing(">=")],
  [">=", comparing(">=")],
  ["<", comparing("<")],
  ["lt", comparing("<")],
  ["lessthan", comparing("<")],
  ["<=", comparing("<=")],
  ["le", comparing("<=")],
]);

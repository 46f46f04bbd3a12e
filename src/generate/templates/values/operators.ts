// The operators of expressions on values of any kind.
import { spend, spendItems, spendJoined } from "../budget.ts";
import { fail } from "../errors.ts";
import { formatPercent } from "../library/formats/percent-format.ts";
import { escapeMarkup } from "./markup.ts";
import { arithmetic, type Int, intOf, type Operator } from "./numbers.ts";
import { str } from "./text.ts";
import { Float, itemsOf, Markup, Tuple, textOf, typeName, Undefined, type Value, View } from "./types.ts";

function numberOf(value: Value): Int | Float | undefined {
  return value instanceof Float ? value : intOf(value);
}

export function binary(operator: Operator, a: Value, b: Value): Value {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) return arithmetic(operator, x, y);
  if (operator === "%" && textOf(a) !== undefined) return formatPercent(a, b);
  if (a instanceof Undefined) a.use();
  if (b instanceof Undefined) b.use();
  if (operator === "+") {
    const sum = add(a, b);
    if (sum !== undefined) return sum;
  }
  if (operator === "*") {
    const product = times(a, y) ?? times(b, x);
    if (product !== undefined) return product;
  }
  if (operator === "-" && a instanceof View && b instanceof View) {
    fail("a difference of dict keys is a set, which templates do not support");
  }
  return fail(unsupported(operator, a, b));
}

function unsupported(operator: Operator, a: Value, b: Value): string {
  const [left, right] = [typeName(a), typeName(b)];
  if (operator === "+") {
    if (typeof a === "string") return `can only concatenate str (not "${right}") to str`;
    if (Array.isArray(a)) return `can only concatenate list (not "${right}") to list`;
    if (a instanceof Tuple) return `can only concatenate tuple (not "${right}") to tuple`;
  }
  if (operator === "*") {
    const sequence = (value: Value): boolean => typeof value === "string" || itemsOf(value) !== undefined;
    if (sequence(a)) return `can't multiply sequence by non-int of type '${right}'`;
    if (sequence(b)) return `can't multiply sequence by non-int of type '${left}'`;
  }
  const name = operator === "**" ? "** or pow()" : operator;
  return `unsupported operand type(s) for ${name}: '${left}' and '${right}'`;
}

function add(a: Value, b: Value): Value | undefined {
  if (typeof a === "string" && typeof b === "string") {
    spendJoined(a.length + b.length);
    return a + b;
  }
  if (textOf(a) !== undefined && textOf(b) !== undefined) {
    const [left, right] = [escapeMarkup(a).text, escapeMarkup(b).text];
    spendJoined(left.length + right.length);
    return new Markup(left + right);
  }
  const isList = Array.isArray(a) && Array.isArray(b);
  if (!isList && !(a instanceof Tuple && b instanceof Tuple)) return undefined;
  const [left, right] = [itemsOf(a) as readonly Value[], itemsOf(b) as readonly Value[]];
  spendItems(left.length + right.length);
  const items = left.concat(right);
  return isList ? items : new Tuple(items);
}

/** sequence * count */
function times(sequence: Value, count: Int | Float | undefined): Value | undefined {
  if (count === undefined || count instanceof Float) return undefined;
  const repeats = count < 0 ? 0 : Number(count);
  const text = textOf(sequence);
  if (text !== undefined) {
    const repeated = repeatText(text, repeats);
    return sequence instanceof Markup ? new Markup(repeated) : repeated;
  }
  const items = itemsOf(sequence);
  if (items === undefined) return undefined;
  if (items.length === 0) return Array.isArray(sequence) ? [] : new Tuple([]);
  spendItems(items.length * repeats);
  const repeated: Value[] = [];
  for (let i = 0; i < repeats; i++) for (const item of items) repeated.push(item);
  return Array.isArray(sequence) ? repeated : new Tuple(repeated);
}

/** text.repeat(), within the budget. */
export function repeatText(text: string, count: number): string {
  if (text === "" || count <= 0) return "";
  spend(text.length * count);
  return text.repeat(count);
}

export function negate(value: Value): Value {
  const number = numberOf(value);
  if (number instanceof Float) return new Float(-number.value);
  if (number !== undefined) return arithmetic("-", 0, number);
  if (value instanceof Undefined) value.use();
  return fail(`bad operand type for unary -: '${typeName(value)}'`);
}

export function plus(value: Value): Value {
  const number = numberOf(value);
  if (number !== undefined) return number;
  if (value instanceof Undefined) value.use();
  return fail(`bad operand type for unary +: '${typeName(value)}'`);
}

/** a ~ b ~ c: as text, and escaped where the template asks for that. */
export function concat(values: readonly Value[], escaping: boolean): Value {
  if (escaping && values.some((value) => value instanceof Markup)) {
    const text = values.map((value) => escapeMarkup(value).text).join("");
    spendJoined(text.length);
    return new Markup(text);
  }
  let text = "";
  for (const value of values) {
    const part = str(value);
    spendJoined(text.length + part.length);
    text += part;
  }
  return text;
}

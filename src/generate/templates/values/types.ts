// The values of templates, which are Python's. None, bool, str and list are null, boolean, string and array; an int is a
// number while it is a safe integer and a bigint beyond; everything else is one of these classes. undefined is no value.
import { spend, spendItems } from "../budget.ts";
import { fail } from "../errors.ts";

export type Value = null | boolean | number | bigint | string | Value[] | PyObject;
export type Kwargs = Map<string, Value>;
export const NO_KWARGS: Kwargs = new Map();

export abstract class PyObject {
  /** As Python's type(x).__name__. */
  abstract readonly typeName: string;
  /** As object_type_repr of jinja2 has it, where that differs. */
  get longTypeName(): string {
    return this.typeName;
  }
  /** An attribute, or undefined if it has none of that name. */
  getAttr(_name: string): Value | undefined {
    return undefined;
  }
  /** repr(), or undefined if Python would show a memory address. */
  repr(): string | undefined {
    return undefined;
  }
}

export class Float extends PyObject {
  readonly typeName = "float";
  readonly value: number;
  constructor(value: number) {
    super();
    this.value = value;
  }
}

/** Text that is escaped already (markupsafe.Markup, a subclass of str). */
export class Markup extends PyObject {
  readonly typeName = "Markup";
  override get longTypeName() {
    return "markupsafe.Markup";
  }
  readonly text: string;
  constructor(text: string) {
    super();
    this.text = text;
  }
}

export class Tuple extends PyObject {
  readonly typeName: string = "tuple";
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    super();
    this.items = items;
  }
}

/** What the groupby filter gives: a tuple of two with names. */
export class Group extends Tuple {
  override readonly typeName = "_GroupTuple";
  override get longTypeName() {
    return "jinja2.filters._GroupTuple";
  }
  override getAttr(name: string): Value | undefined {
    return name === "grouper" ? this.items[0] : name === "list" ? this.items[1] : undefined;
  }
}

/** The key under which a value is found in a dict: equal values have the same, whatever their type. */
type HashKey = string | number | bigint | null | object;

export class Dict extends PyObject {
  readonly typeName = "dict";
  readonly #entries = new Map<HashKey, [Value, Value]>();
  get size(): number {
    return this.#entries.size;
  }
  get(key: Value): Value | undefined {
    return this.#entries.get(hashKey(key))?.[1];
  }
  has(key: Value): boolean {
    return this.#entries.has(hashKey(key));
  }
  set(key: Value, value: Value): void {
    const hash = hashKey(key);
    const entry = this.#entries.get(hash);
    if (entry === undefined) {
      spendItems(4);
      this.#entries.set(hash, [key, value]);
    } else entry[1] = value;
  }
  *keys(): Generator<Value> {
    for (const entry of this.#entries.values()) yield entry[0];
  }
  *values(): Generator<Value> {
    for (const entry of this.#entries.values()) yield entry[1];
  }
  entries(): Iterable<readonly [Value, Value]> {
    return this.#entries.values();
  }
}

const UNDEFINED_KEY = {};

/** @throws TemplateError for a value that Python cannot hash */
export function hashKey(value: Value): HashKey {
  switch (typeof value) {
    case "string":
      return value.charCodeAt(0) === 0 ? `\0s${value}` : value;
    case "boolean":
      return value ? 1 : 0;
    case "number":
    case "bigint":
      return value;
  }
  if (value === null) return null;
  if (value instanceof Markup) return hashKey(value.text);
  if (value instanceof Float) {
    if (!Number.isInteger(value.value)) return Number.isNaN(value.value) ? value : value.value;
    return Number.isSafeInteger(value.value) ? value.value + 0 : BigInt(value.value);
  }
  if (value instanceof Tuple) return `\0t${tupleKey(value, 0)}`;
  if (value instanceof Undefined) return UNDEFINED_KEY;
  if (Array.isArray(value) || value instanceof Dict) fail(`unhashable type: '${typeName(value)}'`);
  return value;
}

const identities = new WeakMap<object, number>();
let lastIdentity = 0;

function tupleKey(tuple: Tuple, depth: number): string {
  if (depth > 50) fail("a tuple nested so deeply cannot be a key");
  const parts = tuple.items.map((item) => {
    if (item instanceof Tuple) return `(${tupleKey(item, depth + 1)})`;
    const key = hashKey(item);
    if (typeof key === "object" && key !== null) {
      let identity = identities.get(key);
      if (identity === undefined) {
        identity = ++lastIdentity;
        identities.set(key, identity);
      }
      return `#${identity}`;
    }
    const text = String(key);
    return `${typeof key === "string" ? "s" : key === null ? "N" : "n"}${text.length}:${text}`;
  });
  const text = parts.join(",");
  spend(text.length);
  return text;
}

/** What a name, attribute or item that does not exist evaluates to. */
export class Undefined extends PyObject {
  readonly typeName = "Undefined";
  override get longTypeName() {
    return "jinja2.runtime.Undefined";
  }
  readonly #message: string | (() => string);
  constructor(message: string | (() => string)) {
    super();
    this.#message = message;
  }
  get message(): string {
    return typeof this.#message === "string" ? this.#message : this.#message();
  }
  /** What every use except printing, testing and iterating does. */
  use(): never {
    fail(this.message);
  }
  override repr(): string {
    return "Undefined";
  }
}

export class PyRange extends PyObject {
  readonly typeName = "range";
  readonly length: number;
  readonly start: number;
  readonly stop: number;
  readonly step: number;
  constructor(start: number, stop: number, step: number) {
    super();
    this.start = start;
    this.stop = stop;
    this.step = step;
    this.length = Math.max(0, Math.ceil((stop - start) / step));
  }
  at(index: number): number {
    return this.start + index * this.step;
  }
  /** The index of a value, -1 if it is not in the range. */
  indexOf(value: number): number {
    const index = (value - this.start) / this.step;
    return Number.isInteger(index) && index >= 0 && index < this.length ? index : -1;
  }
  override getAttr(name: string): Value | undefined {
    if (name === "start" || name === "stop" || name === "step") return this[name];
    return undefined;
  }
  override repr(): string {
    return `range(${this.start}, ${this.stop}${this.step === 1 ? "" : `, ${this.step}`})`;
  }
}

/** keys(), values() or items() of a dict: can be iterated again and again, but not indexed. */
export class View extends PyObject {
  readonly dict: Dict;
  readonly of: "keys" | "values" | "items";
  constructor(dict: Dict, of: "keys" | "values" | "items") {
    super();
    this.dict = dict;
    this.of = of;
  }
  get typeName() {
    return `dict_${this.of}`;
  }
  *[Symbol.iterator](): Generator<Value> {
    if (this.of === "keys") yield* this.dict.keys();
    else if (this.of === "values") yield* this.dict.values();
    else for (const [key, value] of this.dict.entries()) yield new Tuple([key, value]);
  }
}

/** A generator or another iterator: gives its items once. */
export class Iter extends PyObject {
  readonly typeName: string;
  readonly iterator: Iterator<Value>;
  constructor(typeName: string, iterator: Iterator<Value>) {
    super();
    this.typeName = typeName;
    this.iterator = iterator;
  }
}

/** Something that can be called: a function, a method, a macro, a class. */
export abstract class Callable extends PyObject {
  abstract call(args: readonly Value[], kwargs: Kwargs): Value;
}

export function typeName(value: Value): string {
  switch (typeof value) {
    case "string":
      return "str";
    case "boolean":
      return "bool";
    case "number":
    case "bigint":
      return "int";
  }
  if (value === null) return "NoneType";
  return Array.isArray(value) ? "list" : value.typeName;
}

/** As jinja2's object_type_repr, for the messages of undefined values. */
export function describeType(value: Value): string {
  if (value === null) return "None";
  return `${value instanceof PyObject ? value.longTypeName : typeName(value)} object`;
}

/** The text of a str or a Markup, undefined for anything else. */
export function textOf(value: Value): string | undefined {
  return typeof value === "string" ? value : value instanceof Markup ? value.text : undefined;
}

/** The items of a list or a tuple, undefined for anything else. */
export function itemsOf(value: Value): readonly Value[] | undefined {
  return Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined;
}

// The functions every template has: jinja2's own, and the two that transformers adds.
import { spend } from "../budget.ts";
import { fail, TemplateError } from "../errors.ts";
import { iterate, pyList } from "../values/compare.ts";
import { intOf } from "../values/numbers.ts";
import { repr, str } from "../values/text.ts";
import { Callable, Dict, type Kwargs, PyObject, PyRange, typeName, type Value } from "../values/types.ts";
import { strftime } from "./formats/strftime.ts";
import { copyDict } from "./methods.ts";
import { bindArguments, Func, toInt } from "./signature.ts";

/** The limit of jinja2's own sandbox (jinja2.sandbox.MAX_RANGE). */
const MAX_RANGE = 100_000;

function range(args: readonly Value[]): PyRange {
  if (args.length < 1 || args.length > 3) fail(`range expected 1 to 3 arguments, got ${args.length}`);
  const [first = 0, second, by = 1] = args.map((arg) => (intOf(arg) === undefined ? toInt(arg) : toInt(arg)));
  if (by === 0) fail("range() arg 3 must not be zero");
  const made = second === undefined ? new PyRange(0, first, 1) : new PyRange(first, second, by);
  if (!(made.length <= MAX_RANGE)) {
    fail(`Range too big. The sandbox blocks ranges larger than MAX_RANGE (${MAX_RANGE}).`);
  }
  return made;
}

/** dict(mapping or pairs, **more) */
function dict(args: readonly Value[], kwargs: Kwargs): Dict {
  const [source] = args;
  if (args.length > 1) fail(`dict expected at most 1 argument, got ${args.length}`);
  const made = source instanceof Dict ? copyDict(source) : new Dict();
  if (source !== undefined && !(source instanceof Dict)) {
    let index = 0;
    for (const pair of iterate(source)) {
      const items = pyList(pair);
      const [key, value] = items;
      if (items.length !== 2 || key === undefined || value === undefined) {
        fail(`dictionary update sequence element #${index} has length ${items.length}; 2 is required`);
      }
      made.set(key as Value, value as Value);
      index++;
    }
  }
  for (const [key, value] of kwargs) made.set(key, value);
  return made;
}

/** An object whose attributes templates may set, across scopes. */
export class Namespace extends PyObject {
  readonly typeName = "Namespace";
  override get longTypeName() {
    return "jinja2.utils.Namespace";
  }
  readonly #attributes: Dict;
  #printing = false;
  constructor(attributes: Dict) {
    super();
    this.#attributes = attributes;
  }
  override getAttr(name: string): Value | undefined {
    return this.#attributes.get(name);
  }
  set(name: string, value: Value): void {
    this.#attributes.set(name, value);
  }
  override repr(): string {
    if (this.#printing) fail("a namespace contains itself");
    this.#printing = true;
    try {
      return `<Namespace ${repr(this.#attributes)}>`;
    } finally {
      this.#printing = false;
    }
  }
}

class Cycler extends PyObject {
  readonly typeName = "Cycler";
  override get longTypeName() {
    return "jinja2.utils.Cycler";
  }
  readonly #items: readonly Value[];
  #position = 0;
  constructor(items: readonly Value[]) {
    super();
    if (items.length === 0) fail("at least one item has to be provided");
    this.#items = items;
  }
  override getAttr(name: string): Value | undefined {
    if (name === "current") return this.#items[this.#position];
    if (name === "pos") return this.#position;
    if (name === "next") return new Func(() => this.#next(), "method");
    if (name !== "reset") return undefined;
    return new Func(() => {
      this.#position = 0;
      return null;
    }, "method");
  }
  #next(): Value {
    const item = this.#items[this.#position] as Value;
    this.#position = (this.#position + 1) % this.#items.length;
    return item;
  }
}

class Joiner extends Callable {
  readonly typeName = "Joiner";
  override get longTypeName() {
    return "jinja2.utils.Joiner";
  }
  readonly #separator: Value;
  #used = false;
  constructor(separator: Value) {
    super();
    this.#separator = separator;
  }
  call(): Value {
    const first = !this.#used;
    this.#used = true;
    return first ? "" : this.#separator;
  }
  override getAttr(name: string): Value | undefined {
    return name === "sep" ? this.#separator : name === "used" ? this.#used : undefined;
  }
}

const type = (name: string, make: (args: readonly Value[], kwargs: Kwargs) => Value): Func =>
  new Func(make, "type", `<class '${name}'>`);

function noKeywords(name: string, kwargs: Kwargs): void {
  if (kwargs.size > 0) fail(`${name}() takes no keyword arguments`);
}

/** The globals of one render. @param now what strftime_now tells */
export function globals(now: Date): Map<string, Value> {
  return new Map<string, Value>([
    [
      "range",
      new Func((args, kwargs) => {
        noKeywords("range", kwargs);
        return range(args);
      }, "function"),
    ],
    ["dict", type("dict", dict)],
    ["namespace", type("jinja2.utils.Namespace", (args, kwargs) => new Namespace(dict(args, kwargs)))],
    [
      "cycler",
      type("jinja2.utils.Cycler", (args, kwargs) => {
        noKeywords("Cycler", kwargs);
        spend(8 * args.length);
        return new Cycler([...args]);
      }),
    ],
    [
      "joiner",
      type("jinja2.utils.Joiner", (args, kwargs) => {
        const [separator] = bindArguments("Joiner", [["sep", ", "]], args, kwargs);
        return new Joiner(separator as Value);
      }),
    ],
    ["lipsum", new Func(() => fail("lipsum writes random text, which templates may not do"), "function")],
    [
      "raise_exception",
      new Func((args, kwargs) => {
        const [message] = bindArguments("raise_exception", ["message"], args, kwargs);
        throw new TemplateError("refused", str(message as Value));
      }, "function"),
    ],
    [
      "strftime_now",
      new Func((args, kwargs) => {
        const [format] = bindArguments("strftime_now", ["format"], args, kwargs);
        if (typeof format !== "string")
          fail(`strftime() argument 1 must be str, not ${typeName(format as Value)}`);
        spend(64 * (format as string).length);
        return strftime(now, format as string);
      }, "function"),
    ],
  ]);
}

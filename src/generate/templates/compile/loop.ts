// The variable "loop" of a for loop: where the loop is, and, in a recursive one, the way back into it.
import { fail } from "../errors.ts";
import { Func } from "../library/signature.ts";
import { collectionSize, equals } from "../values/compare.ts";
import { Callable, type Kwargs, Undefined, type Value } from "../values/types.ts";
import { length } from "../values/unicode.ts";

export type Recurse = (iterable: Value, depth: number) => Value;

export class LoopContext extends Callable {
  readonly typeName = "LoopContext";
  override get longTypeName() {
    return "jinja2.runtime.LoopContext";
  }
  readonly #iterable: Value;
  #iterator: Iterator<Value>;
  readonly #recurse: Recurse | undefined;
  readonly #depth0: number;
  #index0 = -1;
  #length: number | undefined;
  #current: Value | undefined;
  #before: Value | undefined;
  /** Read ahead: undefined if nothing is. */
  #after: IteratorResult<Value> | undefined;
  #changed: readonly Value[] | undefined;

  constructor(iterable: Value, items: Iterable<Value>, recurse: Recurse | undefined, depth0: number) {
    super();
    this.#iterable = iterable;
    this.#iterator = items[Symbol.iterator]();
    this.#recurse = recurse;
    this.#depth0 = depth0;
  }

  /** The next item, undefined at the end. */
  advance(): Value | undefined {
    const next = this.#after ?? this.#iterator.next();
    if (next.done === true) return undefined;
    this.#after = undefined;
    this.#index0++;
    this.#before = this.#current;
    this.#current = next.value;
    return next.value;
  }

  #peek(): IteratorResult<Value> {
    this.#after ??= this.#iterator.next();
    return this.#after;
  }

  /** Without a size of its own the rest is read to the end. */
  #size(): number {
    if (this.#length !== undefined) return this.#length;
    const known =
      typeof this.#iterable === "string" ? length(this.#iterable) : collectionSize(this.#iterable);
    if (known !== undefined) {
      this.#length = known;
      return known;
    }
    const rest: Value[] = [];
    for (let next = this.#iterator.next(); next.done !== true; next = this.#iterator.next())
      rest.push(next.value);
    this.#iterator = rest[Symbol.iterator]();
    const ahead = this.#after !== undefined && this.#after.done !== true ? 1 : 0;
    this.#length = rest.length + this.#index0 + 1 + ahead;
    return this.#length;
  }

  override getAttr(name: string): Value | undefined {
    switch (name) {
      case "index0":
        return this.#index0;
      case "index":
        return this.#index0 + 1;
      case "length":
        return this.#size();
      case "revindex0":
        return this.#size() - this.#index0 - 1;
      case "revindex":
        return this.#size() - this.#index0;
      case "first":
        return this.#index0 === 0;
      case "last":
        return this.#peek().done === true;
      case "depth":
        return this.#depth0 + 1;
      case "depth0":
        return this.#depth0;
      case "previtem":
        return this.#index0 === 0 ? new Undefined("there is no previous item") : this.#before;
      case "nextitem": {
        const next = this.#peek();
        return next.done === true ? new Undefined("there is no next item") : next.value;
      }
      case "cycle":
        return new Func((args) => this.#cycle(args), "method");
      case "changed":
        return new Func((args) => this.#hasChanged(args), "method");
    }
    return undefined;
  }

  #cycle(args: readonly Value[]): Value {
    const item = args[this.#index0 % args.length];
    return item === undefined ? fail("no items for cycling given") : item;
  }

  #hasChanged(values: readonly Value[]): boolean {
    const last = this.#changed;
    const same =
      last !== undefined &&
      last.length === values.length &&
      values.every((value, i) => equals(value, last[i] as Value));
    if (!same) this.#changed = [...values];
    return !same;
  }

  call(args: readonly Value[], kwargs: Kwargs): Value {
    const iterable = args[0] ?? kwargs.get("iterable");
    if (args.length + kwargs.size !== 1 || iterable === undefined) {
      return fail("loop() takes the items to loop over, and nothing else");
    }
    if (this.#recurse === undefined) {
      return fail("The loop must have the 'recursive' marker to be called recursively.");
    }
    return this.#recurse(iterable, this.#depth0 + 1);
  }

  override repr(): string {
    return `<LoopContext ${this.#index0 + 1}/${this.#size()}>`;
  }
}

// What a compiled template works on while it runs: variables in slots, the caller's variables, output, and calls.
import { deeper, spend, step } from "../budget.ts";
import { fail } from "../errors.ts";
import { str } from "../values/text.ts";
import { Callable, type Kwargs, typeName, Undefined, type Value } from "../values/types.ts";

/** A native filter or test: its value first, then its arguments. */
export type NativeFunction = (runtime: Runtime, args: readonly Value[], kwargs: Kwargs) => Value;

export interface TemplateLibrary {
  readonly filters: ReadonlyMap<string, NativeFunction>;
  readonly tests: ReadonlyMap<string, NativeFunction>;
}

/** The state of one render. */
export class Runtime {
  /** Whether what is called now is to give escaped text. */
  autoescape = false;
  /** The line being run, for messages. */
  line = 1;
  readonly #variables: Map<string, Value>;
  /** Names set at the top of the template, which blocks see. */
  readonly exported = new Map<string, Value>();
  readonly library: TemplateLibrary;

  constructor(variables: Map<string, Value>, library: TemplateLibrary) {
    this.#variables = variables;
    this.library = library;
  }

  resolve(name: string): Value | undefined {
    const value = this.exported.get(name);
    return value === undefined ? this.#variables.get(name) : value;
  }

  call(callee: Value, args: readonly Value[], kwargs: Kwargs): Value {
    step();
    if (callee instanceof Callable) return deeper(() => callee.call(args, kwargs));
    if (callee instanceof Undefined) return callee.use();
    return fail(`'${typeName(callee)}' object is not callable`);
  }

  callFilter(name: Value, args: readonly Value[], kwargs: Kwargs): Value {
    return this.#callNamed("filter", this.library.filters, name, args, kwargs);
  }

  callTest(name: Value, args: readonly Value[], kwargs: Kwargs): Value {
    return this.#callNamed("test", this.library.tests, name, args, kwargs);
  }

  #callNamed(
    kind: string,
    natives: ReadonlyMap<string, NativeFunction>,
    name: Value,
    args: readonly Value[],
    kwargs: Kwargs,
  ): Value {
    step();
    const native = typeof name === "string" ? natives.get(name) : undefined;
    if (native !== undefined) return native(this, args, kwargs);
    if (name instanceof Undefined) {
      return fail(
        `No ${kind} named Undefined. (${name.message}; did you forget to quote the callable name?)`,
      );
    }
    return fail(`No ${kind} named '${str(name)}'.`);
  }
}

/** The variables of one call of a function of the template. */
export class Env {
  readonly slots: (Value | undefined)[];
  readonly parent: Env | undefined;
  readonly runtime: Runtime;
  constructor(size: number, parent: Env | undefined, runtime: Runtime) {
    this.slots = new Array(size).fill(undefined);
    this.parent = parent;
    this.runtime = runtime;
  }
}

/** Text that is being put together. */
export class Output {
  readonly #parts: string[] = [];
  write(text: string): void {
    spend(text.length);
    this.#parts.push(text);
  }
  text(): string {
    return this.#parts.join("");
  }
}

/** How a statement ended: by itself, or by break or continue. */
export enum Flow {
  Next = 0,
  Break = 1,
  Continue = 2,
}

export type Eval = (env: Env) => Value;
export type Run = (env: Env, out: Output) => Flow;

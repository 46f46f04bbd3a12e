// Macros and the callers of call blocks: functions of the template that give text.
import { fail } from "../errors.ts";
import { Callable, Dict, type Kwargs, Markup, Tuple, Undefined, type Value } from "../values/types.ts";
import type { Runtime } from "./runtime.ts";

export interface MacroShape {
  readonly name: string | undefined;
  readonly params: readonly string[];
  /** Whether the body reads them, so that they are passed. */
  readonly usesCaller: boolean;
  readonly usesKwargs: boolean;
  readonly usesVarargs: boolean;
}

export class Macro extends Callable {
  readonly typeName = "Macro";
  override get longTypeName() {
    return "jinja2.runtime.Macro";
  }
  readonly #shape: MacroShape;
  readonly #runtime: Runtime;
  readonly #run: (args: readonly (Value | undefined)[]) => string;

  /** @param run takes the parameters, then caller, kwargs and varargs as far as they are used */
  constructor(shape: MacroShape, runtime: Runtime, run: (args: readonly (Value | undefined)[]) => string) {
    super();
    this.#shape = shape;
    this.#runtime = runtime;
    this.#run = run;
  }

  call(args: readonly Value[], given: Kwargs): Value {
    const { params, usesCaller, usesKwargs, usesVarargs, name } = this.#shape;
    const kwargs = new Map(given);
    const bound: (Value | undefined)[] = args.slice(0, params.length);
    let foundCaller = bound.length === params.length ? params.includes("caller") : false;
    for (const param of params.slice(bound.length)) {
      bound.push(kwargs.get(param));
      kwargs.delete(param);
      if (param === "caller") foundCaller = true;
    }
    const called = name === undefined ? "None" : `'${name}'`;
    if (usesCaller && !foundCaller) {
      bound.push(kwargs.get("caller") ?? new Undefined("No caller defined"));
      kwargs.delete("caller");
    }
    if (usesKwargs) {
      const rest = new Dict();
      for (const [key, value] of kwargs) rest.set(key, value);
      bound.push(rest);
    } else if (kwargs.size > 0) {
      if (kwargs.has("caller")) {
        fail(
          `macro ${called} was invoked with two values for the special caller argument. This is most likely a bug.`,
        );
      }
      fail(`macro ${called} takes no keyword argument '${[...kwargs.keys()][0]}'`);
    }
    if (usesVarargs) bound.push(new Tuple(args.slice(params.length)));
    else if (args.length > params.length) {
      fail(`macro ${called} takes not more than ${params.length} argument(s)`);
    }
    // Whether the text is escaped depends on where the macro is used, not on where it is defined.
    const escaped = this.#runtime.autoescape;
    const text = this.#run(bound);
    return escaped ? new Markup(text) : text;
  }

  override getAttr(name: string): Value | undefined {
    const { params, usesCaller, usesKwargs, usesVarargs } = this.#shape;
    switch (name) {
      case "name":
        return this.#shape.name ?? null;
      case "arguments":
        return new Tuple(params);
      case "catch_kwargs":
        return usesKwargs;
      case "catch_varargs":
        return usesVarargs;
      case "caller":
        return usesCaller;
      case "explicit_caller":
        return params.includes("caller");
    }
    return undefined;
  }

  override repr(): string {
    return `<Macro ${this.#shape.name === undefined ? "anonymous" : `'${this.#shape.name}'`}>`;
  }
}

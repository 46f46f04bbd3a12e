// Functions that templates can call: binds positional and keyword arguments to parameters, as Python does.

import type { NativeFunction, Runtime } from "../compile/runtime.ts";
import { fail } from "../errors.ts";
import { intOf } from "../values/numbers.ts";
import { Callable, type Kwargs, NO_KWARGS, typeName, type Value } from "../values/types.ts";

/** "name" is required, ["name", value] has a default; a name with "/" before it cannot be given by keyword. */
export type Param = string | readonly [string, Value | undefined];

/** The arguments in the order of the parameters; undefined where neither an argument nor a default is. */
export function bindArguments(
  name: string,
  params: readonly Param[],
  args: readonly Value[],
  kwargs: Kwargs,
): (Value | undefined)[] {
  if (args.length > params.length) {
    const most = params.length === 1 ? "1 argument" : `${params.length} arguments`;
    fail(`${name}() takes at most ${most} (${args.length} given)`);
  }
  const bound: (Value | undefined)[] = [];
  let used = 0;
  for (const [i, param] of params.entries()) {
    const key = typeof param === "string" ? param : param[0];
    let value = args[i];
    if (!key.startsWith("/") && kwargs.has(key)) {
      if (i < args.length) fail(`${name}() got multiple values for argument '${key}'`);
      value = kwargs.get(key);
      used++;
    }
    if (value === undefined) {
      if (typeof param === "string") {
        fail(`${name}() missing 1 required positional argument: '${key.replace("/", "")}'`);
      }
      value = param[1];
    }
    bound.push(value);
  }
  if (used < kwargs.size) {
    const names = params.map((param) => (typeof param === "string" ? param : param[0]));
    const unknown = [...kwargs.keys()].find((key) => !names.includes(key));
    fail(`${name}() got an unexpected keyword argument '${unknown}'`);
  }
  return bound;
}

// biome-ignore lint/suspicious/noExplicitAny: the parameters of an implementation are those of its signature
export type Implementation = (...args: any[]) => Value;

/** A filter or test with a signature. */
export function native(name: string, params: readonly Param[], run: Implementation): NativeFunction {
  return (_runtime, args, kwargs) => run(...bindArguments(name, params, args, kwargs));
}

/** The same for one that needs the runtime, as its first parameter. */
export function nativeWithRuntime(
  name: string,
  params: readonly Param[],
  // biome-ignore lint/suspicious/noExplicitAny: as above
  run: (runtime: Runtime, ...args: any[]) => Value,
): NativeFunction {
  return (runtime, args, kwargs) => run(runtime, ...bindArguments(name, params, args, kwargs));
}

/** A function or method of the library. */
export class Func extends Callable {
  readonly typeName: string;
  readonly #call: (args: readonly Value[], kwargs: Kwargs) => Value;
  readonly #repr: string | undefined;
  constructor(
    call: (args: readonly Value[], kwargs: Kwargs) => Value,
    typeName = "builtin_function_or_method",
    repr?: string,
  ) {
    super();
    this.#call = call;
    this.typeName = typeName;
    this.#repr = repr;
  }
  call(args: readonly Value[], kwargs: Kwargs = NO_KWARGS): Value {
    return this.#call(args, kwargs);
  }
  override repr(): string | undefined {
    return this.#repr;
  }
}

/** An argument that must be an int, as a number: beyond the safe integers it is as good as infinite. */
export function toInt(value: Value): number {
  const int = intOf(value);
  if (int === undefined) fail(`'${typeName(value)}' object cannot be interpreted as an integer`);
  return Number(int);
}

// Compiles expressions to functions of the running template's variables.
import { step } from "../budget.ts";
import { fail, syntaxError } from "../errors.ts";
import { getAttr, getItem, getSlice } from "../library/access.ts";
import type { Args, CallNode, CompareOperator, Expr, FilterNode, SliceNode } from "../syntax/nodes.ts";
import { contains, equals, iterate, ordered, truthy } from "../values/compare.ts";
import { binary, concat, negate, plus } from "../values/operators.ts";
import { str } from "../values/text.ts";
import {
  Dict,
  type Kwargs,
  NO_KWARGS,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "../values/types.ts";
import type { Frame } from "./frame.ts";
import type { Env, Eval, NativeFunction, TemplateLibrary } from "./runtime.ts";

export class ExpressionCompiler {
  protected readonly library: TemplateLibrary;

  constructor(library: TemplateLibrary) {
    this.library = library;
  }

  /** Whether output of the frame is escaped. */
  protected escaping(frame: Frame): (env: Env) => boolean {
    const { autoescape } = frame.place;
    return autoescape === undefined ? (env) => env.runtime.autoescape : () => autoescape;
  }

  compile(node: Expr, frame: Frame): Eval {
    switch (node.kind) {
      case "const": {
        const { value } = node;
        return () => value;
      }
      case "data": {
        const { text } = node;
        return () => text;
      }
      case "name":
        return this.name(node.name, frame);
      case "tuple":
      case "list": {
        const items = node.items.map((item) => this.compile(item, frame));
        const all = (env: Env): Value[] => items.map((item) => item(env));
        return node.kind === "list" ? all : (env) => new Tuple(all(env));
      }
      case "dict":
        return this.#dict(node.items, frame);
      case "binary": {
        const [left, right] = [this.compile(node.left, frame), this.compile(node.right, frame)];
        const { operator } = node;
        return (env) => {
          step();
          return binary(operator, left(env), right(env));
        };
      }
      case "logic": {
        const [left, right] = [this.compile(node.left, frame), this.compile(node.right, frame)];
        const stops = node.operator === "or";
        return (env) => {
          step();
          const value = left(env);
          return truthy(value) === stops ? value : right(env);
        };
      }
      case "unary": {
        const operand = this.compile(node.node, frame);
        if (node.operator === "not") return (env) => !truthy(operand(env));
        return node.operator === "-" ? (env) => negate(operand(env)) : (env) => plus(operand(env));
      }
      case "concat": {
        const nodes = node.nodes.map((part) => this.compile(part, frame));
        const escaping = this.escaping(frame);
        return (env) => {
          step();
          return concat(
            nodes.map((part) => part(env)),
            escaping(env),
          );
        };
      }
      case "compare":
        return this.#compare(node.expr, node.ops, frame);
      case "condition":
        return this.#condition(node, frame);
      case "filter":
        return this.filter(node, frame);
      case "test":
        return this.#test(node, frame);
      case "call":
        return this.call(node, frame);
      case "getattr": {
        const [object, { name }] = [this.compile(node.node, frame), node];
        return (env) => getAttr(object(env), name);
      }
      case "getitem":
        return this.#getItem(node.node, node.arg, frame);
      case "slice":
        return syntaxError("a slice among several subscripts is not supported", node.line);
      case "nsref":
        return syntaxError("a namespace attribute cannot be read here", node.line);
    }
  }

  protected name(name: string, frame: Frame): Eval {
    const read = frame.reader(frame.symbols.ref(name));
    const missing = new Undefined(`'${name}' is undefined`);
    return (env) => {
      step();
      const value = read(env);
      return value === undefined ? missing : value;
    };
  }

  #dict(items: readonly (readonly [Expr, Expr])[], frame: Frame): Eval {
    const pairs = items.map(
      ([key, value]) => [this.compile(key, frame), this.compile(value, frame)] as const,
    );
    return (env) => {
      const dict = new Dict();
      for (const [key, value] of pairs) dict.set(key(env), value(env));
      return dict;
    };
  }

  #compare(
    first: Expr,
    operands: readonly { readonly operator: CompareOperator; readonly expr: Expr }[],
    frame: Frame,
  ): Eval {
    const start = this.compile(first, frame);
    const ops = operands.map(
      ({ operator, expr }) => [comparison(operator), this.compile(expr, frame)] as const,
    );
    const [only] = ops;
    if (ops.length === 1 && only !== undefined) {
      const [holds, operand] = only;
      return (env) => {
        step();
        return holds(start(env), operand(env));
      };
    }
    return (env) => {
      let left = start(env);
      for (const [holds, operand] of ops) {
        step();
        const right = operand(env);
        if (!holds(left, right)) return false;
        left = right;
      }
      return true;
    };
  }

  #condition(node: Extract<Expr, { kind: "condition" }>, outer: Frame): Eval {
    const frame = outer.soft();
    const test = this.compile(node.test, frame);
    const then = this.compile(node.whenTrue, frame);
    const otherwise = node.whenFalse === undefined ? undefined : this.compile(node.whenFalse, frame);
    const nothing = new Undefined(
      `the inline if-expression on line ${node.line} evaluated to false and no else section was defined.`,
    );
    return (env) => {
      step();
      if (truthy(test(env))) return then(env);
      return otherwise === undefined ? nothing : otherwise(env);
    };
  }

  /** A filter on its value; on `input` where the filter stands at the head of a block. */
  filter(node: FilterNode, frame: Frame, input?: Eval): Eval {
    const native = this.#native("filter", node.name, node.line, frame);
    const value = node.node === undefined ? input : this.#filterValue(node.node, frame, input);
    if (value === undefined) return syntaxError(`the filter ${node.name} has no value`, node.line);
    const args = this.args(node.args, frame, value);
    return (env) => {
      step();
      const [positional, keywords] = args(env);
      return native(env.runtime, positional, keywords);
    };
  }

  #filterValue(node: Expr, frame: Frame, input: Eval | undefined): Eval {
    return node.kind === "filter" ? this.filter(node, frame, input) : this.compile(node, frame);
  }

  #test(node: Extract<Expr, { kind: "test" }>, frame: Frame): Eval {
    const native = this.#native("test", node.name, node.line, frame);
    const args = this.args(node.args, frame, this.compile(node.node, frame));
    return (env) => {
      step();
      const [positional, keywords] = args(env);
      return native(env.runtime, positional, keywords);
    };
  }

  #native(kind: "filter" | "test", name: string, line: number, frame: Frame): NativeFunction {
    const found = (kind === "filter" ? this.library.filters : this.library.tests).get(name);
    if (found !== undefined) return found;
    if (!frame.place.soft) return syntaxError(`No ${kind} named '${name}'.`, line);
    return () => fail(`No ${kind} named '${name}' found.`);
  }

  call(node: CallNode, frame: Frame, caller?: (env: Env) => Value): Eval {
    const callee = this.compile(node.node, frame);
    const args = this.args(node.args, frame);
    return (env) => {
      const called = callee(env);
      const [positional, keywords] = args(env);
      if (caller === undefined) return env.runtime.call(called, positional, keywords);
      if (keywords.has("caller")) fail("keyword argument repeated: caller");
      return env.runtime.call(called, positional, new Map(keywords).set("caller", caller(env)));
    };
  }

  /** The arguments of a call, `first` before them. */
  protected args(node: Args, frame: Frame, first?: Eval): (env: Env) => readonly [Value[], Kwargs] {
    const args = node.args.map((arg) => this.compile(arg, frame));
    if (first !== undefined) args.unshift(first);
    const kwargs = node.kwargs.map(({ key, value }) => [key, this.compile(value, frame)] as const);
    const dynArgs = node.dynArgs === undefined ? undefined : this.compile(node.dynArgs, frame);
    const dynKwargs = node.dynKwargs === undefined ? undefined : this.compile(node.dynKwargs, frame);
    if (kwargs.length === 0 && dynArgs === undefined && dynKwargs === undefined) {
      return (env) => [args.map((arg) => arg(env)), NO_KWARGS];
    }
    return (env) => {
      const positional = args.map((arg) => arg(env));
      if (dynArgs !== undefined) {
        for (const item of iterate(dynArgs(env))) {
          step();
          positional.push(item);
        }
      }
      const keywords: Kwargs = new Map(kwargs.map(([key, value]) => [key, value(env)]));
      if (dynKwargs !== undefined) addKeywords(keywords, dynKwargs(env));
      return [positional, keywords];
    };
  }

  #getItem(node: Expr, arg: Expr, frame: Frame): Eval {
    const object = this.compile(node, frame);
    if (arg.kind === "slice") return this.#slice(object, arg, frame);
    const key = this.compile(arg, frame);
    return (env) => getItem(object(env), key(env));
  }

  #slice(object: Eval, node: SliceNode, frame: Frame): Eval {
    const [start, stop, by] = [node.start, node.stop, node.step].map((part) =>
      part === undefined ? (): Value => null : this.compile(part, frame),
    ) as [Eval, Eval, Eval];
    return (env) => getSlice(object(env), start(env), stop(env), by(env));
  }
}

function comparison(operator: CompareOperator): (a: Value, b: Value) => boolean {
  switch (operator) {
    case "==":
      return (a, b) => equals(a, b);
    case "!=":
      return (a, b) => !equals(a, b);
    case "in":
      return (a, b) => contains(b, a);
    case "notin":
      return (a, b) => !contains(b, a);
    default:
      return (a, b) => ordered(operator, a, b);
  }
}

function addKeywords(keywords: Kwargs, more: Value): void {
  if (more instanceof Undefined) more.use();
  if (!(more instanceof Dict)) fail(`argument after ** must be a mapping, not ${typeName(more)}`);
  for (const [key, value] of (more as Dict).entries()) {
    const name = textOf(key) ?? fail("keywords must be strings");
    if (keywords.has(name)) fail(`got multiple values for keyword argument '${str(key)}'`);
    keywords.set(name, value);
  }
}

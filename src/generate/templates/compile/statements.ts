// Compiles statements, with jinja2's scopes: loops, macros, blocks with a filter and "with" have names of their own.
import { deeper, step } from "../budget.ts";
import { fail, syntaxError } from "../errors.ts";
import type {
  BlockNode,
  CallBlockNode,
  Expr,
  FilterNode,
  ForNode,
  IfNode,
  MacroNode,
  Stmt,
  Target,
} from "../syntax/nodes.ts";
import { truthy } from "../values/compare.ts";
import { escapeMarkup } from "../values/markup.ts";
import { str } from "../values/text.ts";
import { Markup, textOf, typeName, Undefined, type Value } from "../values/types.ts";
import { ExpressionCompiler } from "./expressions.ts";
import { ForCompiler } from "./for.ts";
import { Frame } from "./frame.ts";
import { Macro, type MacroShape } from "./macro.ts";
import { Env, type Eval, Flow, Output, type Run, type Runtime, type TemplateLibrary } from "./runtime.ts";
import { undeclared } from "./symbols.ts";
import { compileTarget, namespaceOf, namespaceRefs } from "./targets.ts";

/** A template that can be run any number of times. */
export type CompiledTemplate = (runtime: Runtime) => string;

/** @throws TemplateError of kind syntax for filters, tests and uses of tags that do not exist */
export function compileTemplate(body: readonly Stmt[], library: TemplateLibrary): CompiledTemplate {
  return new StatementCompiler(library).template(body);
}

export class StatementCompiler extends ExpressionCompiler {
  readonly #blocks = new Map<string, CompiledTemplate>();

  template(body: readonly Stmt[]): CompiledTemplate {
    for (const name of undeclared(body, ["self", "super"])) {
      syntaxError(`'${name}' belongs to the inheritance of templates, which chat templates do not have`, 1);
    }
    return this.#standalone(body, Frame.root());
  }

  /** A body that is not within any other: the template, or a block of it. */
  #standalone(body: readonly Stmt[], frame: Frame): CompiledTemplate {
    frame.symbols.visitAll(body);
    const [enter, run] = [frame.enter(), this.body(body, frame)];
    return (runtime) => {
      const env = new Env(frame.scope.size, undefined, runtime);
      const out = new Output();
      enter(env);
      run(env, out);
      return out.text();
    };
  }

  body(statements: readonly Stmt[], frame: Frame): Run {
    const runs = statements.map((statement): Run => {
      const run = this.#statement(statement, frame);
      const { line } = statement;
      return (env, out) => {
        step();
        env.runtime.line = line;
        return run(env, out);
      };
    });
    const [only] = runs;
    if (runs.length === 1 && only !== undefined) return only;
    return (env, out) => {
      for (const run of runs) {
        const flow = run(env, out);
        if (flow !== Flow.Next) return flow;
      }
      return Flow.Next;
    };
  }

  #statement(node: Stmt, frame: Frame): Run {
    switch (node.kind) {
      case "output":
        return this.#output(node.nodes, frame);
      case "if":
        return this.#if(node, frame);
      case "for":
        return this.#for(node, frame);
      case "assign":
        return this.#assign(node.target, node.node, frame);
      case "assignblock":
        return this.#assignBlock(node, frame);
      case "macro":
        return this.#macro(node, frame);
      case "callblock":
        return this.#callBlock(node, frame);
      case "filterblock":
        return this.#filterBlock(node.filter, node.body, frame);
      case "with":
        return this.#with(node, frame);
      case "autoescape":
        return this.#autoescape(node, frame);
      case "block":
        return this.#block(node, frame);
      case "break":
      case "continue": {
        if (!frame.place.inLoop) syntaxError(`'${node.kind}' outside loop`, node.line);
        const flow = node.kind === "break" ? Flow.Break : Flow.Continue;
        return () => flow;
      }
    }
  }

  #output(nodes: readonly Expr[], frame: Frame): Run {
    const escaping = this.escaping(frame);
    const writes = nodes.map((node): ((env: Env, out: Output) => void) => {
      if (node.kind === "data") {
        const { text } = node;
        return (_env, out) => out.write(text);
      }
      const evaluate = this.compile(node, frame);
      const { line } = node;
      return (env, out) => {
        env.runtime.line = line;
        const value = evaluate(env);
        out.write(escaping(env) ? escapeMarkup(value).text : str(value));
      };
    });
    return (env, out) => {
      for (const write of writes) write(env, out);
      return Flow.Next;
    };
  }

  #if(node: IfNode, outer: Frame): Run {
    const frame = outer.soft();
    const branches = [node, ...node.elifs].map(
      ({ test, body }) => [this.compile(test, frame), this.body(body, frame)] as const,
    );
    const otherwise = this.body(node.else, frame);
    return (env, out) => {
      for (const [test, run] of branches) {
        step();
        if (truthy(test(env))) return run(env, out);
      }
      return otherwise(env, out);
    };
  }

  #for(node: ForNode, frame: Frame): Run {
    return new ForCompiler(node, frame, {
      body: (statements, inner) => this.body(statements, inner),
      expression: (expr, inner) => this.compile(expr, inner),
      target: compileTarget,
    }).compile();
  }

  #assign(target: Target, node: Expr, frame: Frame): Run {
    const checks = namespaceRefs(target).map((name) => frame.reader(frame.symbols.ref(name)));
    const [evaluate, store] = [this.compile(node, frame), compileTarget(target, frame)];
    return (env) => {
      for (const read of checks) namespaceOf(read(env));
      store(env, evaluate(env));
      return Flow.Next;
    };
  }

  #assignBlock(node: Extract<Stmt, { kind: "assignblock" }>, frame: Frame): Run {
    const block = frame.inner();
    block.symbols.visitAll(node.body);
    const [enter, leave, body] = [block.enter(), block.leave(), this.body(node.body, block)];
    const filter = node.filter === undefined ? undefined : this.#blockFilter(node.filter, block);
    const store = compileTarget(node.target, frame);
    return (env) => {
      const out = new Output();
      enter(env);
      const flow = body(env, out);
      if (flow !== Flow.Next) return flow;
      const text = out.text();
      const value = filter === undefined ? text : filter(env, text);
      store(env, env.runtime.autoescape ? new Markup(str(value)) : value);
      leave(env);
      return Flow.Next;
    };
  }

  /** A chain of filters that begins with a block's text. */
  #blockFilter(node: FilterNode, frame: Frame): (env: Env, text: string) => Value {
    let input: Value = "";
    const escaping = this.escaping(frame);
    const evaluate = this.filter(node, frame, () => input);
    return (env, text) => {
      const outer = input;
      input = escaping(env) ? new Markup(text) : text;
      try {
        return evaluate(env);
      } finally {
        input = outer;
      }
    };
  }

  #filterBlock(filter: FilterNode, statements: readonly Stmt[], outer: Frame): Run {
    const frame = outer.inner();
    frame.symbols.visitAll([...statements, filter]);
    const [enter, leave, body] = [frame.enter(), frame.leave(), this.body(statements, frame)];
    const apply = this.#blockFilter(filter, frame);
    return (env, out) => {
      const inner = new Output();
      enter(env);
      const flow = body(env, inner);
      if (flow !== Flow.Next) return flow;
      out.write(written(apply(env, inner.text())));
      leave(env);
      return Flow.Next;
    };
  }

  #with(node: Extract<Stmt, { kind: "with" }>, outer: Frame): Run {
    const frame = outer.inner();
    frame.symbols.visitAll([...node.targets, ...node.body]);
    const enter = frame.enter();
    const stores = node.targets.map((target, i) => {
      const evaluate = this.compile(node.values[i] as Expr, outer);
      return [compileTarget(target, frame), evaluate] as const;
    });
    const [leave, body] = [frame.leave(), this.body(node.body, frame)];
    return (env, out) => {
      enter(env);
      for (const [store, evaluate] of stores) store(env, evaluate(env));
      const flow = body(env, out);
      leave(env);
      return flow;
    };
  }

  #autoescape(node: Extract<Stmt, { kind: "autoescape" }>, outer: Frame): Run {
    const constant = node.value.kind === "const" ? truthy(node.value.value) : undefined;
    const frame = outer.inner({ autoescape: constant });
    frame.symbols.visitAll([node.value, ...node.body]);
    const [enter, leave] = [frame.enter(), frame.leave()];
    const [value, body] = [this.compile(node.value, frame), this.body(node.body, frame)];
    return (env, out) => {
      enter(env);
      const { runtime } = env;
      const before = runtime.autoescape;
      runtime.autoescape = truthy(value(env));
      const flow = body(env, out);
      runtime.autoescape = before;
      leave(env);
      return flow;
    };
  }

  #block(node: BlockNode, frame: Frame): Run {
    if (this.#blocks.has(node.name)) syntaxError(`block '${node.name}' defined twice`, node.line);
    if (node.required) return () => fail(`Required block '${node.name}' not found`);
    this.#blocks.set(node.name, () => "");
    const run = this.#standalone(node.body, Frame.root(frame.place.autoescape, false));
    // A scoped block sees the variables around it; the others only those of the top and the caller's.
    const around = node.scoped
      ? [...frame.symbols.stored()].map(([name, ref]) => [name, frame.reader(ref)] as const)
      : [];
    return (env, out) => {
      const { exported } = env.runtime;
      const before = new Map(exported);
      for (const [name, read] of around) {
        const value = read(env);
        if (value !== undefined) exported.set(name, value);
      }
      out.write(deeper(() => run(env.runtime)));
      exported.clear();
      for (const [name, value] of before) exported.set(name, value);
      return Flow.Next;
    };
  }

  #macro(node: MacroNode, frame: Frame): Run {
    const make = this.#function(node, node.name, frame);
    const store = compileTarget({ kind: "name", name: node.name, ctx: "store", line: node.line }, frame);
    return (env) => {
      store(env, make(env));
      return Flow.Next;
    };
  }

  #callBlock(node: CallBlockNode, frame: Frame): Run {
    const make = this.#function(node, undefined, frame);
    const call =
      node.call === undefined
        ? (env: Env) => env.runtime.call(make(env), [], new Map())
        : this.call(node.call, frame, make);
    return (env, out) => {
      out.write(written(call(env)));
      return Flow.Next;
    };
  }

  /** What makes the macro of a macro or call block, bound to the variables around it. */
  #function(node: MacroNode | CallBlockNode, name: string | undefined, outer: Frame): (env: Env) => Macro {
    const frame = outer.innerFunction();
    const parts = [...node.params, ...node.defaults, ...node.body];
    frame.symbols.visitAll(parts);
    const params = node.params.map((param) => param.name);
    const used = undeclared(node.body, ["caller", "kwargs", "varargs"]);
    const position = params.indexOf("caller");
    if (used.has("caller") && position >= 0 && position < params.length - node.defaults.length) {
      syntaxError(
        'When defining macros or call blocks the special "caller" argument must be omitted or be given a default.',
        node.line,
      );
    }
    const shape: MacroShape = {
      name,
      params,
      usesCaller: used.has("caller"),
      usesKwargs: used.has("kwargs") && !params.includes("kwargs"),
      usesVarargs: used.has("varargs") && !params.includes("varargs"),
    };
    const extra = [
      ...(shape.usesCaller && position < 0 ? ["caller"] : []),
      ...(shape.usesKwargs ? ["kwargs"] : []),
      ...(shape.usesVarargs ? ["varargs"] : []),
    ];
    for (const one of extra) frame.symbols.parameter(one);
    frame.symbols.visitAll(parts);
    const write = [...params, ...extra].map((one) => frame.writer(frame.symbols.ref(one)));
    const enter = frame.enter();
    const defaults = this.#defaults(node, frame);
    const body = this.body(node.body, frame);
    const newEnv = frame.environment();
    return (outerEnv) =>
      new Macro(shape, outerEnv.runtime, (args) => {
        const env = newEnv(outerEnv);
        const out = new Output();
        for (const [i, value] of args.entries()) write[i]?.(env, value);
        enter(env);
        for (const fill of defaults) fill(env);
        body(env, out);
        return out.text();
      });
  }

  /** Gives parameters without an argument their defaults, in order: a default may read those before it. */
  #defaults(node: MacroNode | CallBlockNode, frame: Frame): ((env: Env) => void)[] {
    const first = node.params.length - node.defaults.length;
    return node.params.map((param, i) => {
      const ref = frame.symbols.ref(param.name);
      const [read, write] = [frame.reader(ref), frame.writer(ref)];
      const given = node.defaults[i - first];
      const otherwise: Eval = given === undefined ? notProvided(param.name) : this.compile(given, frame);
      return (env) => {
        if (read(env) === undefined) write(env, otherwise(env));
      };
    });
  }
}

function notProvided(name: string): Eval {
  const value = new Undefined(`parameter '${name}' was not provided`);
  return () => value;
}

/** What a block writes has to be text already. */
function written(value: Value): string {
  return textOf(value) ?? fail(`expected str instance, ${typeName(value)} found`);
}

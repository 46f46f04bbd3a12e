// Compiles for loops: filtered, with an else, with the variable "loop", and recursive.
import { step } from "../budget.ts";
import { syntaxError } from "../errors.ts";
import { children, type Expr, type ForNode, type Node, type Stmt, type Target } from "../syntax/nodes.ts";
import { iterate, truthy } from "../values/compare.ts";
import { Iter, Markup, type Value } from "../values/types.ts";
import type { Frame } from "./frame.ts";
import { LoopContext, type Recurse } from "./loop.ts";
import { type Env, type Eval, Flow, Output, type Run } from "./runtime.ts";
import { type Ref, undeclared } from "./symbols.ts";

/** What the loop needs of the compiler that it is part of. */
export interface Parts {
  body(statements: readonly Stmt[], frame: Frame): Run;
  expression(node: Expr, frame: Frame): Eval;
  target(target: Target, frame: Frame): (env: Env, value: Value) => void;
}

export class ForCompiler {
  readonly #node: ForNode;
  readonly #frame: Frame;
  readonly #parts: Parts;

  constructor(node: ForNode, frame: Frame, parts: Parts) {
    this.#node = node;
    this.#frame = frame;
    this.#parts = parts;
  }

  compile(): Run {
    const node = this.#node;
    const outer = this.#frame;
    const extended =
      node.recursive || undeclared(node.body, ["loop"]).has("loop") || hasScopedBlock(node.body);
    const around = node.recursive ? outer.innerFunction() : outer;
    const body = node.recursive ? around.with({ inLoop: true }) : around.inner({ inLoop: true });
    const otherwise = node.recursive ? around.sibling({ inLoop: false }) : around.inner();
    const loopRef = extended ? body.symbols.parameter("loop") : undefined;
    body.symbols.visitFor(node, "body");
    if (node.else.length > 0) otherwise.symbols.visitFor(node, "else");
    const select = this.#select(outer);
    refuseLoopTargets(node);
    const iterable = this.#parts.expression(node.iter, outer);
    const run = this.#loop(body, otherwise, loopRef, select);
    if (!node.recursive) return (env, out) => run(env, out, iterable(env), undefined, 0);
    const newEnv = around.environment();
    return (env, out) => {
      const recurse: Recurse = (items, depth) => {
        const inner = newEnv(env);
        const text = new Output();
        run(inner, text, items, recurse, depth);
        return env.runtime.autoescape && outer.place.autoescape !== false
          ? new Markup(text.text())
          : text.text();
      };
      const text = recurse(iterable(env), 0);
      out.write(text instanceof Markup ? text.text : (text as string));
      return Flow.Next;
    };
  }

  /** The loop itself. */
  #loop(
    body: Frame,
    otherwise: Frame,
    loopRef: Ref | undefined,
    select: ((env: Env, items: Iterable<Value>) => Generator<Value>) | undefined,
  ): (env: Env, out: Output, iterable: Value, recurse: Recurse | undefined, depth: number) => Flow {
    const { target, body: statements, else: elseStatements } = this.#node;
    const store = this.#parts.target(target, body);
    const setLoop = loopRef === undefined ? undefined : body.writer(loopRef);
    const [enter, leave] = [body.enter(), body.leave()];
    const run = this.#parts.body(statements, body);
    const hasElse = elseStatements.length > 0;
    const [enterElse, leaveElse] = [otherwise.enter(), otherwise.leave()];
    const runElse = this.#parts.body(elseStatements, otherwise);
    return (env, out, iterable, recurse, depth) => {
      setLoop?.(env, undefined);
      // As in jinja2: an iteration that break or continue ends does not count for the else.
      let none = true;
      const iterate1 = (item: Value): Flow => {
        step();
        store(env, item);
        enter(env);
        const flow = run(env, out);
        if (flow === Flow.Next) none = false;
        return flow;
      };
      const source = iterate(iterable);
      const items = select === undefined ? source : select(env, source);
      const sized = select === undefined ? iterable : new Iter("generator", items as Generator<Value>);
      if (setLoop === undefined) {
        for (const item of items) if (iterate1(item) === Flow.Break) break;
      } else {
        const loop = new LoopContext(sized, items, recurse, depth);
        for (let item = loop.advance(); item !== undefined; item = loop.advance()) {
          setLoop(env, loop);
          if (iterate1(item) === Flow.Break) break;
        }
      }
      leave(env);
      if (!hasElse || !none) return Flow.Next;
      enterElse(env);
      const flow = runElse(env, out);
      leaveElse(env);
      return flow;
    };
  }

  /** The condition of a loop, as a filter of its items with names of its own. */
  #select(outer: Frame): ((env: Env, items: Iterable<Value>) => Generator<Value>) | undefined {
    const { test, target } = this.#node;
    if (test === undefined) return undefined;
    const frame = outer.innerFunction();
    frame.symbols.visitFor(this.#node, "test");
    const [enter, store, passes] = [
      frame.enter(),
      this.#parts.target(target, frame),
      this.#parts.expression(test, frame),
    ];
    const newEnv = frame.environment();
    return function* (env, items) {
      const inner = newEnv(env);
      enter(inner);
      for (const item of items) {
        step();
        store(inner, item);
        if (truthy(passes(inner))) yield item;
      }
    };
  }
}

function hasScopedBlock(nodes: readonly Node[]): boolean {
  return nodes.some((node) => (node.kind === "block" && node.scoped) || hasScopedBlock(children(node)));
}

function refuseLoopTargets(node: Node): void {
  if (node.kind === "name" && node.ctx === "store" && node.name === "loop") {
    syntaxError("Can't assign to special loop variable in for-loop target", node.line);
  }
  for (const child of children(node)) refuseLoopTargets(child);
}

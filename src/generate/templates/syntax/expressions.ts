// Parses expressions, with jinja2's precedence: filters and tests bind tighter than arithmetic, except after a sign.
import { syntaxError } from "../errors.ts";
import { tokenName } from "./lexer.ts";
import type { Args, BinaryOperator, CompareOperator, Expr, FilterNode, SliceNode } from "./nodes.ts";
import type { TokenStream } from "./tokens.ts";

const COMPARISONS: Partial<Record<string, CompareOperator>> = {
  eq: "==",
  ne: "!=",
  lt: "<",
  lteq: "<=",
  gt: ">",
  gteq: ">=",
};
const NO_ARGS: Args = { args: [], kwargs: [], dynArgs: undefined, dynKwargs: undefined };

export interface TupleOptions {
  /** Only names and literals, as in assignment targets. */
  readonly simplified?: boolean;
  readonly withCondition?: boolean;
  /** A name that ends the tuple. */
  readonly endName?: string;
  readonly parenthesized?: boolean;
  readonly withNamespace?: boolean;
}

export class ExpressionParser {
  protected readonly stream: TokenStream;

  constructor(stream: TokenStream) {
    this.stream = stream;
  }

  parseExpression(withCondition = true): Expr {
    return this.stream.deeper(() => (withCondition ? this.#condition() : this.#or()));
  }

  /** An expression, or a tuple if there are commas. */
  parseTuple(options: TupleOptions = {}): Expr {
    const { simplified = false, withCondition = true, endName, parenthesized = false } = options;
    const { stream } = this;
    let { line } = stream.current;
    const items: Expr[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0) stream.expect("comma");
      if (stream.is("variable_end") || stream.is("block_end") || stream.is("rparen")) break;
      if (endName !== undefined && stream.isName(endName)) break;
      items.push(
        simplified ? this.parsePrimary(options.withNamespace ?? false) : this.parseExpression(withCondition),
      );
      if (!stream.is("comma")) break;
      isTuple = true;
      line = stream.current.line;
    }
    if (!isTuple) {
      if (items[0] !== undefined) return items[0];
      if (!parenthesized) {
        syntaxError(`Expected an expression, got '${tokenName(stream.current)}'`, stream.current.line);
      }
    }
    return { kind: "tuple", items, line };
  }

  #condition(): Expr {
    let { line } = this.stream.current;
    let expr = this.#or();
    while (this.stream.skipName("if")) {
      const test = this.#or();
      const otherwise = this.stream.skipName("else")
        ? this.stream.deeper(() => this.#condition())
        : undefined;
      expr = { kind: "condition", test, whenTrue: expr, whenFalse: otherwise, line };
      line = this.stream.current.line;
    }
    return expr;
  }

  #or(): Expr {
    const { line } = this.stream.current;
    let left = this.#and();
    while (this.stream.skipName("or")) {
      left = { kind: "logic", operator: "or", left, right: this.#and(), line };
    }
    return left;
  }

  #and(): Expr {
    const { line } = this.stream.current;
    let left = this.#not();
    while (this.stream.skipName("and")) {
      left = { kind: "logic", operator: "and", left, right: this.#not(), line };
    }
    return left;
  }

  #not(): Expr {
    const { line } = this.stream.current;
    if (!this.stream.skipName("not")) return this.#compare();
    return { kind: "unary", operator: "not", node: this.stream.deeper(() => this.#not()), line };
  }

  #compare(): Expr {
    const { stream } = this;
    const { line } = stream.current;
    const expr = this.#sum();
    const ops: { operator: CompareOperator; expr: Expr }[] = [];
    for (;;) {
      const operator = COMPARISONS[stream.current.type];
      if (operator !== undefined) {
        stream.next();
        ops.push({ operator, expr: this.#sum() });
      } else if (stream.skipName("in")) ops.push({ operator: "in", expr: this.#sum() });
      else if (stream.isName("not") && stream.look().type === "name" && stream.look().text === "in") {
        stream.next();
        stream.next();
        ops.push({ operator: "notin", expr: this.#sum() });
      } else break;
    }
    return ops.length === 0 ? expr : { kind: "compare", expr, ops, line };
  }

  #binary(operators: readonly string[], operand: () => Expr): Expr {
    const { line } = this.stream.current;
    let left = operand();
    while (operators.includes(this.stream.current.type)) {
      const operator = this.stream.next().text as BinaryOperator;
      left = { kind: "binary", operator, left, right: operand(), line };
    }
    return left;
  }

  #sum(): Expr {
    return this.#binary(["add", "sub"], () => this.#concat());
  }

  #concat(): Expr {
    const { line } = this.stream.current;
    const nodes = [this.#product()];
    while (this.stream.skipIf("tilde")) nodes.push(this.#product());
    return nodes.length === 1 ? (nodes[0] as Expr) : { kind: "concat", nodes, line };
  }

  #product(): Expr {
    return this.#binary(["mul", "div", "floordiv", "mod"], () => this.#binary(["pow"], () => this.#unary()));
  }

  #unary(withFilter = true): Expr {
    const { stream } = this;
    const { type, line } = stream.current;
    let node: Expr;
    if (type === "sub" || type === "add") {
      stream.next();
      const operand = stream.deeper(() => this.#unary(false));
      node = { kind: "unary", operator: type === "sub" ? "-" : "+", node: operand, line };
    } else node = this.parsePrimary(false);
    node = this.#postfix(node);
    return withFilter ? this.#filtersAndTests(node) : node;
  }

  parsePrimary(withNamespace: boolean): Expr {
    const { stream } = this;
    const token = stream.current;
    const { line } = token;
    switch (token.type) {
      case "name":
        stream.next();
        if (token.text === "true" || token.text === "True") return { kind: "const", value: true, line };
        if (token.text === "false" || token.text === "False") return { kind: "const", value: false, line };
        if (token.text === "none" || token.text === "None") return { kind: "const", value: null, line };
        if (withNamespace && stream.skipIf("dot")) {
          return { kind: "nsref", name: token.text, attr: stream.expect("name").text, line };
        }
        return { kind: "name", name: token.text, ctx: "load", line };
      case "string": {
        let text = "";
        while (stream.is("string")) text += stream.next().text;
        return { kind: "const", value: text, line };
      }
      case "integer":
      case "float":
        stream.next();
        return { kind: "const", value: token.value ?? 0, line };
      case "lparen": {
        stream.next();
        const node = stream.deeper(() => this.parseTuple({ parenthesized: true }));
        stream.expect("rparen");
        return node;
      }
      case "lbracket":
        return this.#list();
      case "lbrace":
        return this.#dict();
    }
    return syntaxError(`unexpected '${tokenName(token)}'`, line);
  }

  #list(): Expr {
    const { stream } = this;
    const { line } = stream.expect("lbracket");
    const items: Expr[] = [];
    while (!stream.is("rbracket")) {
      if (items.length > 0) stream.expect("comma");
      if (stream.is("rbracket")) break;
      items.push(this.parseExpression());
    }
    stream.expect("rbracket");
    return { kind: "list", items, line };
  }

  #dict(): Expr {
    const { stream } = this;
    const { line } = stream.expect("lbrace");
    const items: [Expr, Expr][] = [];
    while (!stream.is("rbrace")) {
      if (items.length > 0) stream.expect("comma");
      if (stream.is("rbrace")) break;
      const key = this.parseExpression();
      stream.expect("colon");
      items.push([key, this.parseExpression()]);
    }
    stream.expect("rbrace");
    return { kind: "dict", items, line };
  }

  /** Attributes, items and calls after a value. */
  #postfix(start: Expr): Expr {
    let node = start;
    for (;;) {
      if (this.stream.is("dot") || this.stream.is("lbracket")) node = this.#subscript(node);
      else if (this.stream.is("lparen")) node = this.#call(node);
      else return node;
    }
  }

  #filtersAndTests(start: Expr): Expr {
    let node = start;
    for (;;) {
      if (this.stream.is("pipe")) node = this.parseFilters(node) as Expr;
      else if (this.stream.isName("is")) node = this.#test(node);
      else if (this.stream.is("lparen")) node = this.#call(node);
      else return node;
    }
  }

  #subscript(node: Expr): Expr {
    const { stream } = this;
    const token = stream.next();
    const { line } = token;
    if (token.type === "dot") {
      const attribute = stream.next();
      if (attribute.type === "name") return { kind: "getattr", node, name: attribute.text, line };
      if (attribute.type !== "integer") syntaxError("expected name or number", attribute.line);
      return { kind: "getitem", node, arg: { kind: "const", value: attribute.value ?? 0, line }, line };
    }
    const args: Expr[] = [];
    while (!stream.is("rbracket")) {
      if (args.length > 0) stream.expect("comma");
      args.push(this.#subscribed());
    }
    stream.expect("rbracket");
    const arg: Expr = args.length === 1 ? (args[0] as Expr) : { kind: "tuple", items: args, line };
    return { kind: "getitem", node, arg, line };
  }

  #subscribed(): Expr {
    const { stream } = this;
    const { line } = stream.current;
    let start: Expr | undefined;
    if (!stream.is("colon")) {
      start = this.parseExpression();
      if (!stream.is("colon")) return start;
    }
    stream.expect("colon");
    const ends = (): boolean => stream.is("rbracket") || stream.is("comma");
    const stop = stream.is("colon") || ends() ? undefined : this.parseExpression();
    const step = stream.skipIf("colon") && !ends() ? this.parseExpression() : undefined;
    return { kind: "slice", start, stop, step, line } satisfies SliceNode;
  }

  #call(node: Expr): Expr {
    const { line } = this.stream.current;
    return { kind: "call", node, args: this.#args(), line };
  }

  #args(): Args {
    const { stream } = this;
    const { line } = stream.expect("lparen");
    const args: Expr[] = [];
    const kwargs: { key: string; value: Expr }[] = [];
    let dynArgs: Expr | undefined;
    let dynKwargs: Expr | undefined;
    const ensure = (valid: boolean): void => {
      if (!valid) syntaxError("invalid syntax for function call expression", line);
    };
    let first = true;
    while (!stream.is("rparen")) {
      if (!first) {
        stream.expect("comma");
        if (stream.is("rparen")) break;
      }
      first = false;
      if (stream.skipIf("mul")) {
        ensure(dynArgs === undefined && dynKwargs === undefined);
        dynArgs = this.parseExpression();
      } else if (stream.skipIf("pow")) {
        ensure(dynKwargs === undefined);
        dynKwargs = this.parseExpression();
      } else if (stream.is("name") && stream.look().type === "assign") {
        ensure(dynKwargs === undefined);
        const key = stream.next().text;
        stream.next();
        if (kwargs.some((one) => one.key === key)) syntaxError(`keyword argument repeated: ${key}`, line);
        kwargs.push({ key, value: this.parseExpression() });
      } else {
        ensure(dynArgs === undefined && dynKwargs === undefined && kwargs.length === 0);
        args.push(this.parseExpression());
      }
    }
    stream.expect("rparen");
    return { args, kwargs, dynArgs, dynKwargs };
  }

  /** A chain of filters. With `inline` the first has no "|" before it, as in filter blocks. */
  parseFilters(start: Expr | undefined, inline = false): Expr | undefined {
    const { stream } = this;
    let node = start;
    let startInline = inline;
    while (stream.is("pipe") || startInline) {
      if (!startInline) stream.next();
      startInline = false;
      const { name, line } = this.#dottedName();
      const args = stream.is("lparen") ? this.#args() : NO_ARGS;
      node = { kind: "filter", node, name, args, line } satisfies FilterNode;
    }
    return node;
  }

  #dottedName(): { name: string; line: number } {
    const { stream } = this;
    const token = stream.expect("name");
    let name = token.text;
    while (stream.skipIf("dot")) name += `.${stream.expect("name").text}`;
    return { name, line: token.line };
  }

  #test(node: Expr): Expr {
    const { stream } = this;
    const { line } = stream.next();
    const negated = stream.skipName("not");
    const { name } = this.#dottedName();
    let args = NO_ARGS;
    if (stream.is("lparen")) args = this.#args();
    else if (
      ["name", "string", "integer", "float", "lbracket", "lbrace"].includes(stream.current.type) &&
      !stream.isName("else", "or", "and")
    ) {
      if (stream.isName("is")) syntaxError("You cannot chain multiple tests with is", stream.current.line);
      args = { ...NO_ARGS, args: [this.#postfix(this.parsePrimary(false))] };
    }
    const test: Expr = { kind: "test", node, name, args, line };
    return negated ? { kind: "unary", operator: "not", node: test, line } : test;
  }
}

// Parses the statements of a template into its syntax tree.
import { syntaxError } from "../errors.ts";
import { ExpressionParser, type TupleOptions } from "./expressions.ts";
import { tokenize } from "./lexer.ts";
import type { CallBlockNode, Expr, FilterNode, IfNode, NameNode, Signature, Stmt, Target } from "./nodes.ts";
import { TokenStream } from "./tokens.ts";

/** Tags of jinja2 that load other templates, which a chat template cannot have. */
const LOADING = ["extends", "include", "import", "from"];

/** @throws TemplateError of kind syntax, with the line */
export function parseTemplate(source: string): Stmt[] {
  return new Parser(new TokenStream(tokenize(source))).parse();
}

class Parser extends ExpressionParser {
  readonly #tags: string[] = [];
  readonly #ends: (readonly string[])[] = [];

  parse(): Stmt[] {
    return this.#body();
  }

  #fail(message: string): never {
    return syntaxError(message, this.stream.current.line);
  }

  #body(ends?: readonly string[]): Stmt[] {
    if (ends === undefined) return this.#bodyUntil();
    this.#ends.push(ends);
    const body = this.stream.deeper(() => this.#bodyUntil(ends));
    this.#ends.pop();
    return body;
  }

  #bodyUntil(ends?: readonly string[]): Stmt[] {
    const { stream } = this;
    const body: Stmt[] = [];
    let output: Expr[] = [];
    const flush = (): void => {
      const [first] = output;
      if (first !== undefined) body.push({ kind: "output", nodes: output, line: first.line });
      output = [];
    };
    while (!stream.is("eof")) {
      const token = stream.next();
      if (token.type === "data") output.push({ kind: "data", text: token.text, line: token.line });
      else if (token.type === "variable_begin") {
        output.push(this.parseTuple());
        stream.expect("variable_end");
      } else {
        flush();
        if (ends !== undefined && stream.isName(...ends)) return body;
        body.push(this.#statement());
        stream.expect("block_end");
      }
    }
    flush();
    return body;
  }

  /** The body of a statement, up to one of its end tags, which stays the current token unless it is dropped. */
  #statements(ends: readonly string[], drop = false): Stmt[] {
    const { stream } = this;
    stream.skipIf("colon");
    stream.expect("block_end");
    const body = this.#body(ends);
    if (stream.is("eof")) this.#unknownTag(undefined, [...this.#ends, ends]);
    if (drop) stream.next();
    return body;
  }

  #statement(): Stmt {
    const token = this.stream.current;
    if (token.type !== "name") syntaxError("tag name expected", token.line);
    this.#tags.push(token.text);
    const statement = this.#known(token.text, token.line);
    this.#tags.pop();
    return statement;
  }

  #known(tag: string, line: number): Stmt {
    const { stream } = this;
    switch (tag) {
      case "for":
        return this.#for();
      case "if":
        return this.#if();
      case "set":
        return this.#set();
      case "macro": {
        stream.next();
        const { name } = this.#nameTarget();
        const signature = this.#signature();
        return { kind: "macro", name, ...signature, body: this.#statements(["endmacro"], true), line };
      }
      case "call":
        return this.#callBlock();
      case "filter": {
        stream.next();
        const filter = this.parseFilters(undefined, true) as FilterNode;
        return { kind: "filterblock", filter, body: this.#statements(["endfilter"], true), line };
      }
      case "with":
        return this.#with();
      case "print":
        return this.#print();
      case "block":
        return this.#block();
      case "autoescape": {
        stream.next();
        const value = this.parseExpression();
        return { kind: "autoescape", value, body: this.#statements(["endautoescape"], true), line };
      }
      case "generation": {
        stream.next();
        const body = this.#statements(["endgeneration"], true);
        return { kind: "callblock", call: undefined, params: [], defaults: [], body, line };
      }
      case "break":
      case "continue":
        stream.next();
        return { kind: tag, line };
    }
    if (LOADING.includes(tag)) {
      syntaxError(`the tag '${tag}' loads another template, which a chat template cannot do`, line);
    }
    this.#tags.pop();
    return this.#unknownTag(tag, this.#ends);
  }

  #for(): Stmt {
    const { stream } = this;
    const { line } = stream.expectName("for");
    const target = this.#target({ endName: "in" });
    stream.expectName("in");
    const iter = this.parseTuple({ withCondition: false, endName: "recursive" });
    const test = stream.skipName("if") ? this.parseExpression() : undefined;
    const recursive = stream.skipName("recursive");
    const body = this.#statements(["endfor", "else"]);
    const otherwise = stream.next().text === "endfor" ? [] : this.#statements(["endfor"], true);
    return { kind: "for", target, iter, body, else: otherwise, test, recursive, line };
  }

  #if(): IfNode {
    const { stream } = this;
    const { line } = stream.next();
    const test = this.parseTuple({ withCondition: false });
    const body = this.#statements(["elif", "else", "endif"]);
    const elifs: IfNode[] = [];
    let otherwise: Stmt[] = [];
    for (;;) {
      const token = stream.next();
      if (token.text === "elif") {
        const elifLine = stream.current.line;
        const elifTest = this.parseTuple({ withCondition: false });
        const elifBody = this.#statements(["elif", "else", "endif"]);
        elifs.push({ kind: "if", test: elifTest, body: elifBody, elifs: [], else: [], line: elifLine });
        continue;
      }
      if (token.text === "else") otherwise = this.#statements(["endif"], true);
      return { kind: "if", test, body, elifs, else: otherwise, line };
    }
  }

  #set(): Stmt {
    const { stream } = this;
    const { line } = stream.next();
    const target = this.#target({ withNamespace: true });
    if (stream.skipIf("assign")) return { kind: "assign", target, node: this.parseTuple(), line };
    const filter = this.parseFilters(undefined) as FilterNode | undefined;
    return { kind: "assignblock", target, filter, body: this.#statements(["endset"], true), line };
  }

  #with(): Stmt {
    const { stream } = this;
    const { line } = stream.next();
    const targets: Target[] = [];
    const values: Expr[] = [];
    while (!stream.is("block_end")) {
      if (targets.length > 0) stream.expect("comma");
      const target = this.#target({});
      mark(target, "param");
      targets.push(target);
      stream.expect("assign");
      values.push(this.parseExpression());
    }
    return { kind: "with", targets, values, body: this.#statements(["endwith"], true), line };
  }

  #print(): Stmt {
    const { stream } = this;
    const { line } = stream.next();
    const nodes: Expr[] = [];
    while (!stream.is("block_end")) {
      if (nodes.length > 0) stream.expect("comma");
      nodes.push(this.parseExpression());
    }
    return { kind: "output", nodes, line };
  }

  #block(): Stmt {
    const { stream } = this;
    const { line } = stream.next();
    const name = stream.expect("name").text;
    const scoped = stream.skipName("scoped");
    const required = stream.skipName("required");
    if (stream.is("sub")) {
      this.#fail(
        "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, " +
          "use an underscore instead.",
      );
    }
    const body = this.#statements(["endblock"], true);
    stream.skipName(name);
    return { kind: "block", name, scoped, required, body, line };
  }

  #callBlock(): CallBlockNode {
    const { stream } = this;
    const { line } = stream.next();
    const signature = stream.is("lparen") ? this.#signature() : { params: [], defaults: [] };
    const call = this.parseExpression();
    if (call.kind !== "call") return syntaxError("expected call", line);
    return { kind: "callblock", call, ...signature, body: this.#statements(["endcall"], true), line };
  }

  #signature(): Signature {
    const { stream } = this;
    const params: NameNode[] = [];
    const defaults: Expr[] = [];
    stream.expect("lparen");
    while (!stream.is("rparen")) {
      if (params.length > 0) stream.expect("comma");
      const param = this.#nameTarget();
      param.ctx = "param";
      if (params.some(({ name }) => name === param.name)) {
        syntaxError(`duplicate argument '${param.name}' in the signature`, param.line);
      }
      if (stream.skipIf("assign")) defaults.push(this.parseExpression());
      else if (defaults.length > 0) this.#fail("non-default argument follows default argument");
      params.push(param);
    }
    stream.expect("rparen");
    return { params, defaults };
  }

  #nameTarget(): NameNode {
    const token = this.stream.expect("name");
    const node: NameNode = { kind: "name", name: token.text, ctx: "store", line: token.line };
    if (!assignable(node)) syntaxError("can't assign to 'name'", token.line);
    return node;
  }

  #target(options: TupleOptions): Target {
    const target = this.parseTuple({ ...options, simplified: true });
    if (!assignable(target)) return syntaxError(`can't assign to '${target.kind}'`, target.line);
    mark(target, "store");
    return target;
  }

  #unknownTag(tag: string | undefined, ends: readonly (readonly string[])[]): never {
    const message = [tag === undefined ? "Unexpected end of template." : `Encountered unknown tag '${tag}'.`];
    const wanted = ends
      .at(-1)
      ?.map((name) => `'${name}'`)
      .join(" or ");
    if (wanted !== undefined) {
      message.push(
        tag !== undefined && ends.flat().includes(tag)
          ? `You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for ${wanted}.`
          : `Jinja was looking for the following tags: ${wanted}.`,
      );
    }
    const innermost = this.#tags.at(-1);
    if (innermost !== undefined) {
      message.push(`The innermost block that needs to be closed is '${innermost}'.`);
    }
    return this.#fail(message.join(" "));
  }
}

function assignable(node: Expr): node is Target {
  if (node.kind === "tuple") return node.items.every(assignable);
  if (node.kind === "nsref") return true;
  return node.kind === "name" && !["true", "false", "none", "True", "False", "None"].includes(node.name);
}

function mark(target: Expr, ctx: "store" | "param"): void {
  if (target.kind === "name") target.ctx = ctx;
  else if (target.kind === "tuple") for (const item of target.items) mark(item, ctx);
}

// The syntax tree of a template. Fields are in the order in which jinja2 visits them, which decides what names mean.
import type { Value } from "../values/types.ts";

export type Context = "load" | "store" | "param";
export type BinaryOperator = "+" | "-" | "*" | "/" | "//" | "%" | "**";
export type CompareOperator = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "notin";

interface At {
  readonly line: number;
}
export interface NameNode extends At {
  readonly kind: "name";
  readonly name: string;
  ctx: Context;
}
export interface NamespaceRef extends At {
  readonly kind: "nsref";
  readonly name: string;
  readonly attr: string;
}
export interface TupleNode extends At {
  readonly kind: "tuple";
  readonly items: readonly Expr[];
}
export interface Args {
  readonly args: readonly Expr[];
  readonly kwargs: readonly { readonly key: string; readonly value: Expr }[];
  readonly dynArgs: Expr | undefined;
  readonly dynKwargs: Expr | undefined;
}
export interface FilterNode extends At {
  readonly kind: "filter";
  /** Undefined in a filter block or set block: its body. */
  readonly node: Expr | undefined;
  readonly name: string;
  readonly args: Args;
}
export interface CallNode extends At {
  readonly kind: "call";
  readonly node: Expr;
  readonly args: Args;
}
export interface SliceNode extends At {
  readonly kind: "slice";
  readonly start: Expr | undefined;
  readonly stop: Expr | undefined;
  readonly step: Expr | undefined;
}

export type Expr =
  | NameNode
  | NamespaceRef
  | TupleNode
  | FilterNode
  | CallNode
  | SliceNode
  | (At & { readonly kind: "const"; readonly value: Value })
  | (At & { readonly kind: "data"; readonly text: string })
  | (At & { readonly kind: "list"; readonly items: readonly Expr[] })
  | (At & { readonly kind: "dict"; readonly items: readonly (readonly [Expr, Expr])[] })
  | (At & {
      readonly kind: "binary";
      readonly operator: BinaryOperator;
      readonly left: Expr;
      readonly right: Expr;
    })
  | (At & {
      readonly kind: "logic";
      readonly operator: "and" | "or";
      readonly left: Expr;
      readonly right: Expr;
    })
  | (At & { readonly kind: "unary"; readonly operator: "+" | "-" | "not"; readonly node: Expr })
  | (At & { readonly kind: "concat"; readonly nodes: readonly Expr[] })
  | (At & {
      readonly kind: "compare";
      readonly expr: Expr;
      readonly ops: readonly { readonly operator: CompareOperator; readonly expr: Expr }[];
    })
  | (At & {
      readonly kind: "condition";
      readonly test: Expr;
      readonly whenTrue: Expr;
      readonly whenFalse: Expr | undefined;
    })
  | (At & { readonly kind: "test"; readonly node: Expr; readonly name: string; readonly args: Args })
  | (At & { readonly kind: "getattr"; readonly node: Expr; readonly name: string })
  | (At & { readonly kind: "getitem"; readonly node: Expr; readonly arg: Expr });

export type Target = NameNode | NamespaceRef | TupleNode;

export interface IfNode extends At {
  readonly kind: "if";
  readonly test: Expr;
  readonly body: readonly Stmt[];
  readonly elifs: readonly IfNode[];
  readonly else: readonly Stmt[];
}
export interface ForNode extends At {
  readonly kind: "for";
  readonly target: Target;
  readonly iter: Expr;
  readonly body: readonly Stmt[];
  readonly else: readonly Stmt[];
  readonly test: Expr | undefined;
  readonly recursive: boolean;
}
export interface Signature {
  readonly params: readonly NameNode[];
  /** Those of the last parameters. */
  readonly defaults: readonly Expr[];
}
export interface MacroNode extends At, Signature {
  readonly kind: "macro";
  readonly name: string;
  readonly body: readonly Stmt[];
}
export interface CallBlockNode extends At, Signature {
  readonly kind: "callblock";
  /** Undefined for a generation block, whose body is rendered as it is. */
  readonly call: CallNode | undefined;
  readonly body: readonly Stmt[];
}
export interface BlockNode extends At {
  readonly kind: "block";
  readonly name: string;
  readonly scoped: boolean;
  readonly required: boolean;
  readonly body: readonly Stmt[];
}

export type Stmt =
  | IfNode
  | ForNode
  | MacroNode
  | CallBlockNode
  | BlockNode
  | (At & { readonly kind: "output"; readonly nodes: readonly Expr[] })
  | (At & { readonly kind: "filterblock"; readonly filter: FilterNode; readonly body: readonly Stmt[] })
  | (At & {
      readonly kind: "with";
      readonly targets: readonly Target[];
      readonly values: readonly Expr[];
      readonly body: readonly Stmt[];
    })
  | (At & { readonly kind: "assign"; readonly target: Target; readonly node: Expr })
  | (At & {
      readonly kind: "assignblock";
      readonly target: Target;
      readonly filter: FilterNode | undefined;
      readonly body: readonly Stmt[];
    })
  | (At & { readonly kind: "autoescape"; readonly value: Expr; readonly body: readonly Stmt[] })
  | (At & { readonly kind: "break" | "continue" });

export type Node = Expr | Stmt;

function argNodes({ args, kwargs, dynArgs, dynKwargs }: Args): Node[] {
  const nodes = [...args, ...kwargs.map(({ value }) => value)];
  if (dynArgs !== undefined) nodes.push(dynArgs);
  if (dynKwargs !== undefined) nodes.push(dynKwargs);
  return nodes;
}

const there = (...nodes: (Node | undefined)[]): Node[] => nodes.filter((node) => node !== undefined);

/** The children of a node, in jinja2's order. */
export function children(node: Node): readonly Node[] {
  switch (node.kind) {
    case "name":
    case "nsref":
    case "const":
    case "data":
    case "break":
    case "continue":
      return [];
    case "tuple":
    case "list":
      return node.items;
    case "dict":
      return node.items.flat();
    case "binary":
    case "logic":
      return [node.left, node.right];
    case "unary":
      return [node.node];
    case "concat":
    case "output":
      return node.nodes;
    case "compare":
      return [node.expr, ...node.ops.map(({ expr }) => expr)];
    case "condition":
      return there(node.test, node.whenTrue, node.whenFalse);
    case "filter":
    case "test":
    case "call":
      return [...there(node.node), ...argNodes(node.args)];
    case "getattr":
      return [node.node];
    case "getitem":
      return [node.node, node.arg];
    case "slice":
      return there(node.start, node.stop, node.step);
    case "if":
      return [node.test, ...node.body, ...node.elifs, ...node.else];
    case "for":
      return [node.target, node.iter, ...node.body, ...node.else, ...there(node.test)];
    case "macro":
      return [...node.params, ...node.defaults, ...node.body];
    case "callblock":
      return [...there(node.call), ...node.params, ...node.defaults, ...node.body];
    case "block":
      return node.body;
    case "filterblock":
      return [...node.body, node.filter];
    case "with":
      return [...node.targets, ...node.values, ...node.body];
    case "assign":
      return [node.target, node.node];
    case "assignblock":
      return [node.target, ...there(node.filter), ...node.body];
    case "autoescape":
      return [node.value, ...node.body];
  }
}

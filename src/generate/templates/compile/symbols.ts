// Which variable a name means where: jinja2's rules (idtracking.py), by which a name that a scope sets anywhere is that
// scope's own from its beginning, and starts as the outer variable of that name, the caller's, or undefined.
import { children, type ForNode, type IfNode, type Node } from "../syntax/nodes.ts";

/** A function of the compiled template (the root, a macro, a recursive loop): the owner of slots for variables. */
export class FunctionScope {
  readonly parent: FunctionScope | undefined;
  readonly #slots = new Map<string, number>();
  constructor(parent: FunctionScope | undefined) {
    this.parent = parent;
  }
  get size(): number {
    return this.#slots.size;
  }
  slot(target: string): number {
    let slot = this.#slots.get(target);
    if (slot === undefined) {
      slot = this.#slots.size;
      this.#slots.set(target, slot);
    }
    return slot;
  }
  /** How many functions further out `owner` is. */
  distanceTo(owner: FunctionScope): number {
    let hops = 0;
    for (let scope: FunctionScope | undefined = this; scope !== undefined; scope = scope.parent) {
      if (scope === owner) return hops;
      hops++;
    }
    throw new Error("a variable of a function that is not around this one");
  }
}

/** A variable: its function and the name of its slot there. */
export interface Ref {
  readonly target: string;
  readonly owner: FunctionScope;
}

export type NameLoad =
  | { readonly from: "parameter" }
  | { readonly from: "context"; readonly name: string }
  | { readonly from: "outer"; readonly ref: Ref }
  | { readonly from: "nothing" };

export class Symbols {
  readonly level: number;
  readonly parent: Symbols | undefined;
  readonly owner: FunctionScope;
  #refs = new Map<string, Ref>();
  /** How each variable of this scope begins, by its target. */
  loads = new Map<string, NameLoad & { readonly ref?: Ref }>();
  #stores = new Set<string>();

  constructor(owner: FunctionScope, parent: Symbols | undefined) {
    this.owner = owner;
    this.parent = parent;
    this.level = parent === undefined ? 0 : parent.level + 1;
  }

  #copy(): Symbols {
    const copy = new Symbols(this.owner, this.parent);
    copy.#refs = new Map(this.#refs);
    copy.loads = new Map(this.loads);
    copy.#stores = new Set(this.#stores);
    return copy;
  }

  #define(name: string, load: NameLoad): Ref {
    const ref = { target: `${this.level}_${name}`, owner: this.owner };
    this.#refs.set(name, ref);
    this.loads.set(ref.target, load);
    return ref;
  }

  find(name: string): Ref | undefined {
    return this.#refs.get(name) ?? this.parent?.find(name);
  }

  ref(name: string): Ref {
    const ref = this.find(name);
    if (ref === undefined) throw new Error(`the name ${name} was not analysed`);
    return ref;
  }

  parameter(name: string): Ref {
    this.#stores.add(name);
    return this.#define(name, { from: "parameter" });
  }

  load(name: string): void {
    if (this.find(name) === undefined) this.#define(name, { from: "context", name });
  }

  store(name: string): void {
    this.#stores.add(name);
    if (this.#refs.has(name)) return;
    const outer = this.parent?.find(name);
    this.#define(name, outer === undefined ? { from: "nothing" } : { from: "outer", ref: outer });
  }

  #mergeBranches(branches: readonly Symbols[]): void {
    const stores = new Set<string>();
    for (const branch of branches) for (const name of branch.#stores) stores.add(name);
    for (const name of this.#stores) stores.delete(name);
    for (const branch of branches) {
      for (const [name, ref] of branch.#refs) this.#refs.set(name, ref);
      for (const [target, load] of branch.loads) this.loads.set(target, load);
      for (const name of branch.#stores) this.#stores.add(name);
    }
    // What only some branches set begins as it is outside.
    for (const name of stores) {
      const { target } = this.ref(name);
      const outer = this.parent?.find(name);
      this.loads.set(target, outer === undefined ? { from: "context", name } : { from: "outer", ref: outer });
    }
  }

  /** Names stored here and outside with their variables, the innermost first. */
  stored(): Map<string, Ref> {
    const found = new Map<string, Ref>();
    for (let scope: Symbols | undefined = this; scope !== undefined; scope = scope.parent) {
      for (const name of scope.#stores) if (!found.has(name)) found.set(name, this.ref(name));
    }
    return found;
  }

  /** Takes in nodes that belong to this scope. */
  visitAll(nodes: readonly (Node | undefined)[]): void {
    for (const node of nodes) if (node !== undefined) this.visit(node);
  }

  visitFor(node: ForNode, part: "body" | "else" | "test"): void {
    if (part !== "else") this.#targetAsParameter(node.target);
    if (part === "test") this.visitAll([node.test]);
    else this.visitAll(part === "body" ? node.body : node.else);
  }

  #targetAsParameter(node: Node): void {
    if (node.kind === "name") this.parameter(node.name);
    else if (node.kind === "nsref") this.load(node.name);
    else for (const child of children(node)) this.#targetAsParameter(child);
  }

  /** Takes in a node as part of this scope, but not the scopes within it. */
  visit(node: Node): void {
    switch (node.kind) {
      case "name":
        if (node.ctx === "param") this.parameter(node.name);
        else if (node.ctx === "store") this.store(node.name);
        else this.load(node.name);
        return;
      case "nsref":
        this.load(node.name);
        return;
      case "if":
        this.#visitIf(node);
        return;
      case "macro":
        this.store(node.name);
        return;
      case "assign":
        this.visit(node.node);
        this.visit(node.target);
        return;
      case "for":
        this.visit(node.iter);
        return;
      case "callblock":
        this.visitAll([node.call]);
        return;
      case "filterblock":
        this.visit(node.filter);
        return;
      case "with":
        this.visitAll(node.values);
        return;
      case "assignblock":
        this.visit(node.target);
        return;
      case "autoescape":
      case "block":
        return;
      default:
        this.visitAll(children(node));
    }
  }

  #visitIf(node: IfNode): void {
    this.visit(node.test);
    const branches = [node.body, node.elifs, node.else].map((body) => {
      const branch = this.#copy();
      branch.visitAll(body);
      return branch;
    });
    this.#mergeBranches(branches);
  }
}

/** Which of the names are read somewhere in the nodes before they are set there. */
export function undeclared(nodes: readonly Node[], names: readonly string[]): Set<string> {
  const wanted = new Set(names);
  const found = new Set<string>();
  const visit = (node: Node): void => {
    if (node.kind === "name") {
      if (node.ctx === "load" && wanted.has(node.name)) found.add(node.name);
      else wanted.delete(node.name);
    } else if (node.kind !== "block") for (const child of children(node)) visit(child);
  };
  for (const node of nodes) visit(node);
  return found;
}

// Where the compiler is: the scope of names, and what surrounds the statement being compiled.
import { spend } from "../budget.ts";
import type { Value } from "../values/types.ts";
import { Env } from "./runtime.ts";
import { FunctionScope, type Ref, Symbols } from "./symbols.ts";

interface Place {
  /** At the top of the template, where names are visible to blocks. */
  readonly toplevel: boolean;
  /** Directly within a loop of this function. */
  readonly inLoop: boolean;
  /** Within an if or a condition, where unknown filters fail only when they are reached. */
  readonly soft: boolean;
  /** Whether output is escaped; undefined if that is known only while running. */
  readonly autoescape: boolean | undefined;
}

export class Frame {
  readonly symbols: Symbols;
  readonly scope: FunctionScope;
  readonly place: Place;

  private constructor(symbols: Symbols, scope: FunctionScope, place: Place) {
    this.symbols = symbols;
    this.scope = scope;
    this.place = place;
  }

  static root(autoescape: boolean | undefined = false, toplevel = true): Frame {
    const scope = new FunctionScope(undefined);
    return new Frame(new Symbols(scope, undefined), scope, {
      toplevel,
      inLoop: false,
      soft: false,
      autoescape,
    });
  }

  /** A scope of names within this one, in the same function. */
  inner(place: Partial<Place> = {}): Frame {
    const symbols = new Symbols(this.scope, this.symbols);
    return new Frame(symbols, this.scope, { ...this.place, toplevel: false, soft: false, ...place });
  }

  /** A scope of names in a function of its own. */
  innerFunction(place: Partial<Place> = {}): Frame {
    const scope = new FunctionScope(this.scope);
    const symbols = new Symbols(scope, this.symbols);
    return new Frame(symbols, scope, {
      ...this.place,
      toplevel: false,
      inLoop: false,
      soft: false,
      ...place,
    });
  }

  /** Another scope of names beside this one, in the same function. */
  sibling(place: Partial<Place>): Frame {
    return new Frame(new Symbols(this.scope, this.symbols.parent), this.scope, { ...this.place, ...place });
  }

  /** The same scope, conditionally reached. */
  soft(): Frame {
    return new Frame(this.symbols, this.scope, { ...this.place, soft: true });
  }

  with(place: Partial<Place>): Frame {
    return new Frame(this.symbols, this.scope, { ...this.place, ...place });
  }

  /** Reads a variable; undefined where it has no value. */
  reader(ref: Ref): (env: Env) => Value | undefined {
    const hops = this.scope.distanceTo(ref.owner);
    const slot = ref.owner.slot(ref.target);
    if (hops === 0) return (env) => env.slots[slot];
    if (hops === 1) return (env) => env.parent?.slots[slot];
    return (env) => ancestor(env, hops).slots[slot];
  }

  writer(ref: Ref): (env: Env, value: Value | undefined) => void {
    const hops = this.scope.distanceTo(ref.owner);
    const slot = ref.owner.slot(ref.target);
    return (env, value) => {
      ancestor(env, hops).slots[slot] = value;
    };
  }

  /** Gives this scope's variables their first values. Compiled after all of the scope was analysed. */
  enter(): (env: Env) => void {
    const steps: ((env: Env) => void)[] = [];
    for (const [target, load] of this.symbols.loads) {
      const slot = this.symbols.owner.slot(target);
      if (load.from === "context") {
        const { name } = load;
        steps.push((env) => {
          env.slots[slot] = env.runtime.resolve(name);
        });
      } else if (load.from === "outer") {
        const read = this.reader(load.ref);
        steps.push((env) => {
          env.slots[slot] = read(env);
        });
      } else if (load.from === "nothing") {
        steps.push((env) => {
          env.slots[slot] = undefined;
        });
      }
    }
    return (env) => {
      for (const step of steps) step(env);
    };
  }

  /** Forgets this scope's variables. */
  leave(): (env: Env) => void {
    const slots = [...this.symbols.loads.keys()].map((target) => this.symbols.owner.slot(target));
    return (env) => {
      for (const slot of slots) env.slots[slot] = undefined;
    };
  }

  /** The variables for one call of this frame's function. */
  environment(): (parent: Env) => Env {
    const { scope } = this;
    return (parent) => {
      spend(8 * scope.size + 16);
      return new Env(scope.size, parent, parent.runtime);
    };
  }
}

function ancestor(env: Env, hops: number): Env {
  let found = env;
  for (let i = 0; i < hops; i++) found = found.parent as Env;
  return found;
}

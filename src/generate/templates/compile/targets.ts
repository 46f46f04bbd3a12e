// Compiles what values are assigned to: names, attributes of namespaces, and tuples of these.
import { fail } from "../errors.ts";
import { Namespace } from "../library/globals.ts";
import { children, type Target } from "../syntax/nodes.ts";
import { isIterable, iterate } from "../values/compare.ts";
import { typeName, type Value } from "../values/types.ts";
import type { Frame } from "./frame.ts";
import type { Env } from "./runtime.ts";

export type StoreTarget = (env: Env, value: Value) => void;

/** Stores a value in a name, or its items in several. */
export function compileTarget(target: Target, frame: Frame): StoreTarget {
  if (target.kind === "name") {
    const write = frame.writer(frame.symbols.ref(target.name));
    if (!frame.place.toplevel) return write;
    return (env, value) => {
      write(env, value);
      env.runtime.exported.set(target.name, value);
    };
  }
  if (target.kind === "nsref") {
    const read = frame.reader(frame.symbols.ref(target.name));
    return (env, value) => namespaceOf(read(env)).set(target.attr, value);
  }
  const stores = target.items.map((item) => compileTarget(item as Target, frame));
  return (env, value) => {
    const items = unpacked(value, stores.length);
    for (const [i, store] of stores.entries()) store(env, items[i] as Value);
  };
}

function unpacked(value: Value, count: number): Value[] {
  if (!isIterable(value)) fail(`cannot unpack non-iterable ${typeName(value)} object`);
  const items: Value[] = [];
  for (const item of iterate(value)) {
    if (items.length === count) fail(`too many values to unpack (expected ${count})`);
    items.push(item);
  }
  if (items.length < count) fail(`not enough values to unpack (expected ${count}, got ${items.length})`);
  return items;
}

export function namespaceOf(value: Value | undefined): Namespace {
  return value instanceof Namespace ? value : fail("cannot assign attribute on non-namespace object");
}

/** The names of the namespaces that a target writes to. */
export function namespaceRefs(target: Target): string[] {
  if (target.kind === "nsref") return [target.name];
  return children(target).flatMap((child) => namespaceRefs(child as Target));
}

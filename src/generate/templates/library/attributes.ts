// How filters look into items: by an attribute's name, a path of names and indices, or several of them.
import { intOf } from "../values/numbers.ts";
import { textOf, Undefined, type Value } from "../values/types.ts";
import { getItem } from "./access.ts";
import { lower } from "./str-methods.ts";

export type Getter = (item: Value) => Value;

/** Strings in lower case, for comparisons that ignore it. */
export function ignoreCase(value: Value): Value {
  const text = textOf(value);
  return text === undefined ? value : lower(text);
}

function parts(attribute: Value): readonly Value[] {
  if (attribute === null) return [];
  const text = textOf(attribute);
  if (text === undefined) return [attribute];
  return text.split(".").map((part) => (/^\p{Nd}+$/u.test(part) ? (intOf(Number(part)) ?? part) : part));
}

/** The value at an attribute's path; `otherwise` where a step of it is undefined. */
export function attributeGetter(attribute: Value, postprocess?: Getter, otherwise: Value = null): Getter {
  const path = parts(attribute);
  return (item) => {
    let value = item;
    for (const part of path) {
      value = getItem(value, part);
      if (otherwise !== null && value instanceof Undefined) value = otherwise;
    }
    return postprocess === undefined ? value : postprocess(value);
  };
}

/** A list of the values at several paths, separated by commas. */
export function multiGetter(attribute: Value, postprocess?: Getter): Getter {
  const text = textOf(attribute);
  const getters = (text === undefined ? [attribute] : text.split(",")).map((path) =>
    attributeGetter(path, postprocess),
  );
  return (item) => getters.map((getter) => getter(item));
}

// What values of a caller are data that templates can have. Stands apart from the engine: who sends values to the sandbox
// explains with it what cannot be sent.

/** What is wrong with a value itself, such as "is a function"; undefined for data, whatever is in it. */
export function problemOf(value: unknown): string | undefined {
  if (typeof value !== "object")
    return typeof value === "function" || typeof value === "symbol" ? `is a ${typeof value}` : undefined;
  if (value === null || Array.isArray(value)) return undefined;
  const prototype: unknown = Object.getPrototypeOf(value);
  // A plain object may come from another realm, whose Object.prototype is another.
  const plain = prototype === null || Object.getPrototypeOf(prototype) === null;
  if (plain && Object.prototype.toString.call(value) === "[object Object]") return undefined;
  const name: unknown = value.constructor?.name;
  return `is a ${typeof name === "string" && name !== "" ? name : "class instance"}`;
}

/** Where, and what to do. */
export function refusal(path: string, problem: string): string {
  const where = path.length > 200 ? `${path.slice(0, 200)}...` : path;
  return `${where} ${problem}; templates take text, numbers, booleans, null, lists and plain objects, so convert it first`;
}

/** The first of all values in these variables that is no data; undefined if all are. */
export function firstRefusal(variables: Readonly<Record<string, unknown>>): string | undefined {
  const seen = new Set<unknown>();
  const waiting: [path: string, value: unknown][] = Object.entries(variables).reverse();
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const [path, value] = next;
    const problem = problemOf(value);
    if (problem !== undefined) return refusal(path, problem);
    if (typeof value !== "object" || value === null || seen.has(value)) continue;
    seen.add(value);
    const isList = Array.isArray(value);
    const members = Object.entries(value).map(([name, member]): [string, unknown] => [
      isList ? `${path}[${name}]` : `${path}.${name}`,
      member,
    ]);
    waiting.push(...members.reverse());
  }
  return undefined;
}

// Things in their order, put together until a limit is reached.

/** Consecutive groups of at most `limit` each, or of one item that is more. No items: no groups. */
export function inGroups<T>(items: readonly T[], limit: number, sizeOf: (item: T) => number): T[][] {
  const groups: T[][] = [];
  let filled = 0;
  for (const item of items) {
    const size = sizeOf(item);
    if (groups.length === 0 || filled + size > limit) {
      groups.push([]);
      filled = 0;
    }
    (groups.at(-1) as T[]).push(item);
    filled += size;
  }
  return groups;
}

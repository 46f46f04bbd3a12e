// Things in their order, put together until a limit is reached.

/** Consecutive groups of at most `limit` bytes each, or of one item that has more. No items: no groups. */
export function inGroups<T>(items: readonly T[], limit: number, bytesOf: (item: T) => number): T[][] {
  const groups: T[][] = [];
  let filled = 0;
  for (const item of items) {
    const bytes = bytesOf(item);
    if (groups.length === 0 || filled + bytes > limit) {
      groups.push([]);
      filled = 0;
    }
    (groups.at(-1) as T[]).push(item);
    filled += bytes;
  }
  return groups;
}

// Bounded concurrency for many small reads. Not a scheduler: order of results is the order of items.

/**
 * Calls `use` on every item, at most `limit` at a time. After a failure nothing new is started, what runs is waited
 * for (so no handle is open when this returns), and the first failure in the order of items is thrown.
 */
export async function mapBounded<T, R>(
  items: readonly T[],
  limit: number,
  use: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = new Array(items.length);
  const failures: { index: number; error: unknown }[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < items.length && failures.length === 0) {
      const index = next++;
      try {
        results[index] = await use(items[index] as T);
      } catch (error) {
        failures.push({ index, error });
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker));
  failures.sort((a, b) => a.index - b.index);
  if (failures[0]) throw failures[0].error;
  return results;
}

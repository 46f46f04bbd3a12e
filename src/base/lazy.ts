/** A value that is made when it is first asked for. Regexes with classes of Unicode take milliseconds to make. */
export function lazy<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

// For tests of public calls: values that no signature allows, as plain JavaScript gives them.
/** What a caller's own code throws. */
export class Own extends Error {}
export const thrower = () => {
  throw new Own("the caller's own");
};
const deep = (() => {
  let value: unknown = 1;
  for (let i = 0; i < 20_000; i++) value = [value];
  return value;
})();

/** Odd values, by what they are. */
export const ODD: Readonly<Record<string, unknown>> = {
  five: 5,
  zero: 0,
  minus: -1,
  half: 1.5,
  NaN: Number.NaN,
  infinity: Number.POSITIVE_INFINITY,
  huge: 1e300,
  "beyond 2^53": 2 ** 60,
  bigint: 5n,
  true: true,
  false: false,
  "empty text": "",
  text: "x",
  "control characters": "\u001b]0;x\u0007\u0000",
  "half a pair": "\ud800",
  list: [],
  "list of lists": [[]],
  "list of texts": ["a", "b"],
  "list of null": [null],
  "list of symbols": [Symbol("s")],
  "sparse list": new Array<number>(3),
  object: {},
  "object without prototype": Object.create(null),
  map: new Map([[1, 2]]),
  date: new Date(0),
  error: new TypeError("not thrown"),
  regexp: /x/,
  promise: Promise.resolve(1),
  symbol: Symbol("odd"),
  function: () => 1,
  class: class {},
  bytes: new Uint8Array(4),
  floats: new Float32Array(2),
  buffer: new ArrayBuffer(8),
  deep,
  cyclic: (() => {
    const a: unknown[] = [];
    a.push(a);
    return a;
  })(),
  "toString that throws": { toString: thrower },
  "getter that throws": Object.defineProperty({}, "x", { get: thrower, enumerable: true }),
  "proxy that throws": new Proxy(
    {},
    { get: thrower, ownKeys: thrower, getPrototypeOf: thrower, has: thrower },
  ),
  "revoked proxy": (() => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  })(),
};

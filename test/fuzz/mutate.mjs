// Seeded random numbers, and mutations of JSON and bytes that keep most of the structure.
export function rng(seed) {
  let s = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) >>> 0;
  const next = () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = s;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const int = (n) => Math.floor(next() * n);
  return { next, int, pick: (list) => list[int(list.length)], chance: (p) => next() < p };
}

export const RAW = Symbol("raw"); // {[RAW]: text}: written as it is
const raw = (text) => ({ [RAW]: text });
const deep = (n, open = "[", close = "]", core = "0") => raw(open.repeat(n) + core + close.repeat(n));

/** Values that programs stumble over. */
export const ODD = [
  null,
  true,
  false,
  0,
  -0,
  1,
  -1,
  2,
  3,
  7,
  0.5,
  -0.5,
  1e-300,
  1e308,
  -1e308,
  65535,
  65536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32,
  2 ** 53 - 1,
  2 ** 53,
  2 ** 62,
  1e19,
  1e9,
  1e7,
  raw("1e999"),
  raw("-1e999"),
  raw("1E400"),
  raw("NaN"),
  raw("Infinity"),
  "",
  "0",
  "1",
  "-1",
  "x",
  "__proto__",
  "constructor",
  "toString",
  "\u0000",
  "\u001b[31m\u001b]0;t\u0007",
  "\ud800",
  "\u202e",
  "F32",
  "F64",
  "I64",
  "U8",
  "BOOL",
  "F8_E4M3",
  "..",
  "../../etc/passwd",
  "/etc/passwd",
  "a".repeat(70000),
  "\u0130".repeat(300),
  [],
  {},
  [[]],
  [null],
  [-1],
  [0],
  [1.5],
  [2 ** 53],
  ["x"],
  [1, 2, 3, 4, 5, 6, 7, 8, 9],
  { __proto__: null, a: 1 },
  deep(200),
  deep(20000),
  deep(200000),
  deep(5000, '{"a":', "}", "1"),
  raw('{"__proto__":{"polluted":1}}'),
  raw('{"constructor":{"prototype":{"polluted":1}}}'),
  new Array(1000).fill(0),
  Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`k${i}`, i])),
];

export function stringify(value) {
  if (value === undefined) return "null";
  if (typeof value === "number" && Object.is(value, -0)) return "-0";
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (value[RAW] !== undefined) return value[RAW];
  if (Array.isArray(value)) return `[${value.map(stringify).join(",")}]`;
  if (value.$members)
    return `{${value.$members.map(([k, v]) => `${JSON.stringify(k)}:${stringify(v)}`).join(",")}}`;
  return `{${Object.entries(value)
    .map(([k, v]) => `${JSON.stringify(k)}:${stringify(v)}`)
    .join(",")}}`;
}

/** Every place in a value: [holder, key, path]. */
export function places(value, limit = 4000) {
  const found = [];
  const walk = (holder, key, path) => {
    if (found.length >= limit) return;
    found.push([holder, key, path]);
    const v = holder[key];
    if (typeof v === "object" && v !== null && v[RAW] === undefined)
      for (const k of Object.keys(v)) walk(v, Array.isArray(v) ? Number(k) : k, `${path}/${k}`);
  };
  const root = { root: value };
  walk(root, "root", "");
  return { root, found };
}

/** A copy of `json` with `count` changes; returns { value, log }. `focus` keys are preferred. */
export function mutateJson(r, json, { count = 1 + r.int(3), focus } = {}) {
  const { root, found } = places(structuredClone(json));
  const preferred = focus ? found.filter(([, , path]) => focus.test(path)) : [];
  const log = [];
  for (let i = 0; i < count; i++) {
    const [holder, key, path] = preferred.length > 0 && r.chance(0.75) ? r.pick(preferred) : r.pick(found);
    if (holder === null || typeof holder !== "object" || holder[RAW] !== undefined) continue;
    const old = holder[key];
    const kind = r.int(10);
    let did;
    if (kind < 5) {
      holder[key] = r.pick(ODD);
      did = "odd";
    } else if (kind === 5) {
      if (Array.isArray(holder)) holder.splice(Number(key), 1);
      else delete holder[key];
      did = "delete";
    } else if (kind === 6 && typeof old === "number") {
      holder[key] = r.pick([old + 1, old - 1, old * 2, -old, old + 0.5, old * 1e6, String(old)]);
      did = "number";
    } else if (kind === 7 && !Array.isArray(holder) && key !== "root") {
      holder[
        r.pick(["__proto__", "constructor", "", `${key} `, String(key).toUpperCase(), r.pick(found)[1]])
      ] = old;
      delete holder[key];
      did = "rename";
    } else if (kind === 8 && typeof old === "string") {
      holder[key] = r.pick([
        `${old}\u0000`,
        old.slice(1),
        old + old,
        old.toUpperCase(),
        `\u001b[2J${old}`,
        [old],
        { x: old },
      ]);
      did = "string";
    } else if (kind === 9) {
      const other = r.pick(found);
      holder[key] = other[0]?.[other[1]] ?? null;
      if (cyclic(holder[key], holder)) holder[key] = 0;
      did = "graft";
    } else {
      holder[key] = r.pick(ODD);
      did = "odd";
    }
    log.push(`${did} ${path}`);
  }
  return { value: root.root, log };
}

function cyclic(value, target, depth = 0) {
  if (value === target) return true;
  if (depth > 50 || typeof value !== "object" || value === null) return depth > 50;
  return Object.values(value).some((v) => cyclic(v, target, depth + 1));
}

/** Changes of the text itself. */
export function mutateText(r, text) {
  const at = r.int(text.length + 1);
  switch (r.int(12)) {
    case 0:
      return text.slice(0, at);
    case 1:
      return text.slice(at);
    case 2:
      return `\ufeff${text}`;
    case 3:
      return text + r.pick(["}", "{", " ", "\u0000", ",", "\n{}", "x"]);
    case 4:
      return (
        text.slice(0, at) +
        r.pick(['"', "\\", "{", "}", "[", "]", ",", ":", "\u0000", "\n", "1", "\\ud800", "/*", "é"]) +
        text.slice(at)
      );
    case 5:
      return text.slice(0, at) + text.slice(at + 1 + r.int(20));
    case 6: {
      // a member twice
      const m = /"[^"\\]*":(?:"[^"\\]*"|[\d.]+|true|false|null|\[[\d,]*\])/g;
      const all = [...text.matchAll(m)];
      if (all.length === 0) return text;
      const one = r.pick(all);
      return `${text.slice(0, one.index)}${one[0]},${text.slice(one.index)}`;
    }
    case 7:
      return "";
    case 8:
      return r.pick([
        "null",
        "[]",
        "{}",
        "0",
        '""',
        "true",
        "[{}]",
        " ",
        "\u0000\u0000",
        "nul",
        "{".repeat(100000),
        "[".repeat(300000),
        `{"a":`.repeat(50000),
      ]);
    case 9:
      return text.replaceAll(",", ", ").replaceAll(":", " : ");
    case 10:
      return text.slice(0, at) + text.slice(at, at + 30).toUpperCase() + text.slice(at + 30);
    default:
      return text.replace(/\d+/g, (d) =>
        r.chance(0.05) ? r.pick(["1e5", "-1", "0x10", "01", "99999999999999999999", "1.", ".5", "+1"]) : d,
      );
  }
}

export function mutateBytes(r, bytes) {
  const out = Buffer.from(bytes);
  if (out.length === 0) return out;
  const from = r.chance(0.5) ? 0 : Math.max(0, out.length - 2048);
  const span = Math.min(out.length - from, r.pick([8, 64, 512, 4096, out.length]));
  const n = 1 + r.int(6);
  for (let i = 0; i < n; i++) {
    const at = from + r.int(span);
    switch (r.int(4)) {
      case 0:
        out[at] ^= 1 << r.int(8);
        break;
      case 1:
        out[at] = r.pick([0, 1, 0x7f, 0x80, 0xff]);
        break;
      case 2:
        out.fill(r.pick([0, 0xff]), at, Math.min(out.length, at + 8));
        break;
      default:
        out[at] = r.int(256);
    }
  }
  if (r.chance(0.1)) return out.subarray(0, r.int(out.length));
  if (r.chance(0.05)) return Buffer.concat([out, Buffer.alloc(r.int(100))]);
  return out;
}

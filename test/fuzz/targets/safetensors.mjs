// Safetensors files: what the format says of a header, written from its description alone, and files with a changed one.
import { mutateBytes, mutateJson, mutateText, ODD, stringify } from "../mutate.mjs";
import { isInt } from "./judging.mjs";

/** What the format says of a header: undefined, or what is wrong. Written from the format's description alone. */
export function headerProblem(file) {
  if (file.length < 8) return "short";
  const n = file.readBigUInt64LE(0);
  if (n > 100_000_000n || n > BigInt(file.length - 8)) return "length";
  const bytes = file.subarray(8, 8 + Number(n));
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return "utf-8";
  }
  if (text[0] !== "{") return "begin";
  let header;
  try {
    header = JSON.parse(text);
  } catch {
    return "json";
  }
  const size = {
    F64: 8,
    I64: 8,
    U64: 8,
    F32: 4,
    I32: 4,
    U32: 4,
    F16: 2,
    BF16: 2,
    I16: 2,
    U16: 2,
    I8: 1,
    U8: 1,
    BOOL: 1,
    F8_E4M3: 1,
    F8_E5M2: 1,
  };
  const ranges = [];
  for (const [name, t] of Object.entries(header)) {
    if (name === "__metadata__") {
      if (t === null) continue; // the reference takes it for none
      if (typeof t !== "object" || Array.isArray(t) || !Object.values(t).every((v) => typeof v === "string"))
        return "metadata";
      continue;
    }
    if (typeof t !== "object" || t === null || Array.isArray(t)) return "entry";
    if (!Object.hasOwn(size, t.dtype)) return "dtype";
    if (!Array.isArray(t.shape) || !t.shape.every((d) => isInt(d))) return "shape";
    if (
      !Array.isArray(t.data_offsets) ||
      t.data_offsets.length !== 2 ||
      !t.data_offsets.every((d) => isInt(d))
    )
      return "offsets";
    const [a, b] = t.data_offsets;
    if (b < a || t.shape.reduce((x, y) => x * y, size[t.dtype]) !== b - a) return "bytes";
    ranges.push([a, b]);
  }
  ranges.sort((x, y) => x[0] - y[0] || x[1] - y[1]);
  let at = 0;
  for (const [a, b] of ranges) {
    if (a !== at) return "gap";
    at = b;
  }
  return at === file.length - 8 - Number(n) ? undefined : "end";
}

/** A safetensors file with its header changed. */
export function mutateFile(r, file) {
  const n = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + n).toString());
  const data = file.subarray(8 + n);
  const build = (text, length) => {
    const bytes = Buffer.from(text);
    const field = Buffer.alloc(8);
    field.writeBigUInt64LE(BigInt.asUintN(64, length ?? BigInt(bytes.length)));
    return Buffer.concat([field, bytes, data]);
  };
  const names = Object.keys(header).filter((k) => k !== "__metadata__");
  const t = header[r.pick(names)];
  const u = header[r.pick(names)];
  switch (r.int(14)) {
    case 0:
    case 1:
    case 2: {
      const m = mutateJson(r, header);
      return [build(stringify(m.value)), m.log.join("; ")];
    }
    case 3:
    case 4:
      return [build(mutateText(r, JSON.stringify(header))), "text"];
    case 5:
      return [
        build(
          JSON.stringify(header),
          r.pick([
            0n,
            1n,
            BigInt(n) - 1n,
            BigInt(n) + 1n,
            2n ** 31n,
            2n ** 63n,
            2n ** 64n - 1n,
            100_000_001n,
            99_999_999n,
          ]),
        ),
        "length field",
      ];
    case 6:
      [t.data_offsets, u.data_offsets] = [u.data_offsets, t.data_offsets];
      return [build(JSON.stringify(header)), "offsets swapped"];
    case 7:
      t.data_offsets = t.data_offsets.map((x) => x + r.pick([-1, 1, -4, 4, 4096, -4096, 2 ** 32, 2 ** 53]));
      return [build(JSON.stringify(header)), "offsets moved"];
    case 8:
      t.shape = r.pick([
        t.shape.toReversed(),
        [...t.shape, 1],
        [1, ...t.shape],
        [t.shape.reduce((a, b) => a * b, 1)],
        [2 ** 32, 2 ** 32],
        [0],
        [],
        [2 ** 31, 0],
        [-1, -64],
        [0.5, 8192],
      ]);
      return [build(JSON.stringify(header)), "shape"];
    case 9:
      t.dtype = r.pick([
        "F16",
        "BF16",
        "F32",
        "I32",
        "F64",
        "I8",
        "U8",
        "BOOL",
        "f32",
        "F8_E4M3",
        "F4",
        "",
        "Q4_K",
      ]);
      return [build(JSON.stringify(header)), "dtype"];
    case 10:
      header[
        r.pick([
          "extra",
          "lm_head.weight ",
          "__proto__",
          "model.layers.99.mlp.up_proj.weight",
          "\u001b[31m",
          "",
        ])
      ] = {
        dtype: "F32",
        shape: r.pick([[0], [0, 5], [2 ** 53 - 1, 0], [1]]),
        data_offsets: r.pick([
          [0, 0],
          [data.length, data.length],
          [0, 4],
          [data.length, data.length + 4],
        ]),
      };
      return [build(JSON.stringify(header)), "added"];
    case 11:
      header.__metadata__ = r.pick([
        null,
        [],
        {},
        { format: "pt" },
        { format: 1 },
        { a: { b: "c" } },
        "x",
        ODD.at(-1),
      ]);
      return [build(JSON.stringify(header)), "metadata"];
    case 12: {
      const b = mutateBytes(r, file.subarray(0, 8 + n));
      return [Buffer.concat([b, data]), "bytes"];
    }
    default:
      return [
        r.chance(0.5)
          ? file.subarray(0, r.int(file.length))
          : Buffer.concat([file, Buffer.alloc(r.int(5000))]),
        "file length",
      ];
  }
}

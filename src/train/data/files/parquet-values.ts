// Values of a Parquet file as templates and rows take them: what Python's readers give, in the types of JSON. Whole numbers
// become numbers where they are exact; dates, times and decimals the text that Python's str() gives; bytes that are no
// UTF-8 Python's b'...'. Decoding is hyparquet's: annotations it would turn into something else are taken off first.
import type { FileMetaData, SchemaElement } from "hyparquet";

/** A node of the schema, as hyparquet's parquetSchema gives it. */
export interface SchemaNode {
  readonly element: SchemaElement;
  readonly children: readonly SchemaNode[];
}

type Converter = (value: unknown) => unknown;

/** What becomes of the values of columns, by the element of their schema. */
export type Converters = ReadonlyMap<SchemaElement, Converter>;

/**
 * How the leaves are converted. Their elements in `metadata` lose the annotations that are dealt with here, so that
 * hyparquet gives their values as they are stored.
 */
export function takeAnnotations(metadata: FileMetaData): Converters {
  const converters = new Map<SchemaElement, Converter>();
  for (const element of metadata.schema) {
    if ((element.num_children ?? 0) > 0) continue;
    const converter = converterOf(element);
    if (!converter) continue;
    delete element.converted_type;
    delete element.logical_type;
    converters.set(element, converter);
  }
  return converters;
}

function converterOf({
  type,
  converted_type,
  logical_type,
  scale = 0,
}: SchemaElement): Converter | undefined {
  const of = (convert: (value: number | bigint) => unknown): Converter => {
    return (value) => (typeof value === "number" || typeof value === "bigint" ? convert(value) : value);
  };
  if (converted_type === "DECIMAL" || logical_type?.type === "DECIMAL")
    return (value) => decimalText(value instanceof Uint8Array ? signedBigEndian(value) : value, scale);
  if (converted_type === "DATE" || logical_type?.type === "DATE")
    return of((days) => dateText(BigInt(days) * DAY));
  // hyparquet makes one number of its two, whatever its annotations: see nanoseconds.
  if (type === "INT96") return of((value) => timestampText(micros(BigInt(value), "NANOS"), false));
  if (logical_type?.type === "TIMESTAMP") {
    const { unit, isAdjustedToUTC } = logical_type;
    return of((value) => timestampText(micros(BigInt(value), unit), isAdjustedToUTC));
  }
  if (converted_type === "TIMESTAMP_MILLIS")
    return of((value) => timestampText(micros(BigInt(value), "MILLIS"), true));
  if (converted_type === "TIMESTAMP_MICROS") return of((value) => timestampText(BigInt(value), true));
  if (logical_type?.type === "TIME") {
    const { unit } = logical_type;
    return of((value) => timeText(micros(BigInt(value), unit)));
  }
  if (converted_type === "TIME_MILLIS") return of((value) => timeText(micros(BigInt(value), "MILLIS")));
  if (converted_type === "TIME_MICROS") return of((value) => timeText(BigInt(value)));
  return undefined;
}

/** A decoded row. Bytes in a column of its own are text or stay bytes, which no row can be made of. */
export function plainRow(
  row: Readonly<Record<string, unknown>>,
  schema: SchemaNode,
  converters: Converters,
): Record<string, unknown> {
  return Object.fromEntries(
    schema.children
      .filter(({ element: { name } }) => name in row)
      .map((node) => {
        const value = row[node.element.name];
        const plain =
          value instanceof Uint8Array && !converters.has(node.element)
            ? (textIn(value) ?? value)
            : plainValue(value, node, converters);
        return [node.element.name, plain];
      }),
  );
}

/**
 * A decoded value of `node`. Lists and structs are gone through; maps stay objects, whose members templates can name.
 */
function plainValue(value: unknown, node: SchemaNode, converters: Converters): unknown {
  if (value === undefined || value === null) return null;
  if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof Uint8Array))) {
    const inner = itemOf(node);
    return Array.from(value as Iterable<unknown>, (item) => plainValue(item, inner, converters));
  }
  const converter = converters.get(node.element);
  if (converter) return converter(value);
  if (typeof value === "bigint") return wholeNumber(value);
  if (value instanceof Uint8Array) return bytesText(value);
  if (typeof value !== "object") return value;
  const isMap = node.element.converted_type === "MAP" || node.element.converted_type === "MAP_KEY_VALUE";
  const [keyNode, valueNode] = isMap ? (node.children[0]?.children ?? []) : [];
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      const child = isMap ? valueNode : node.children.find(({ element }) => element.name === key);
      const name = keyNode ? String(plainValue(key, keyNode, converters)) : key;
      return [name, child ? plainValue(item, child, converters) : item];
    }),
  );
}

/** The node of a list's items: of three-level lists, of two-level ones, and of a repeated field by itself. */
function itemOf(node: SchemaNode): SchemaNode {
  const [repeated] = node.children;
  if (node.element.converted_type !== "LIST" || !repeated) return node;
  return repeated.children.length === 1 ? (repeated.children[0] as SchemaNode) : repeated;
}

/** Exact as a number, or a BigInt, which templates print as a whole number too. */
function wholeNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text that is not annotated as such, from older writers; undefined for other bytes. */
function textIn(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Such text, or bytes as Python shows them. */
function bytesText(bytes: Uint8Array): string {
  const text = textIn(bytes);
  if (text !== undefined) return text;
  const escaped = Array.from(bytes, (byte) => {
    const character = String.fromCharCode(byte);
    if (character === "'" || character === "\\") return `\\${character}`;
    if (byte >= 0x20 && byte < 0x7f) return character;
    return `\\x${byte.toString(16).padStart(2, "0")}`;
  });
  return `b'${escaped.join("")}'`;
}

const SECOND = 1_000_000n;
const DAY = 86_400n * SECOND;
const two = (value: bigint, width = 2) => String(value).padStart(width, "0");

/** Microseconds, which Python's types have; nanoseconds are cut to them. */
function micros(value: bigint, unit: string): bigint {
  if (unit === "MILLIS") return value * 1000n;
  return unit === "NANOS" ? floorDivide(value, 1000n) : value;
}

function floorDivide(a: bigint, b: bigint): bigint {
  return a / b - (a % b < 0n ? 1n : 0n);
}

/** "2024-01-02" */
function dateText(sinceEpoch: bigint): string {
  const date = new Date(Number(floorDivide(sinceEpoch, 1000n)));
  if (Number.isNaN(date.getTime())) return String(sinceEpoch / DAY);
  return `${two(BigInt(date.getUTCFullYear()), 4)}-${two(BigInt(date.getUTCMonth() + 1))}-${two(BigInt(date.getUTCDate()))}`;
}

/** "03:04:05.678901" */
function timeText(ofDay: bigint): string {
  const seconds = ofDay / SECOND;
  const fraction = ofDay % SECOND;
  const text = `${two(seconds / 3600n)}:${two((seconds / 60n) % 60n)}:${two(seconds % 60n)}`;
  return fraction === 0n ? text : `${text}.${two(fraction, 6)}`;
}

/** "2024-01-02 03:04:05.678901+00:00" */
function timestampText(sinceEpoch: bigint, utc: boolean): string {
  const day = floorDivide(sinceEpoch, DAY);
  return `${dateText(day * DAY)} ${timeText(sinceEpoch - day * DAY)}${utc ? "+00:00" : ""}`;
}

/** "-0.05" with scale 2, as Python's Decimal prints it. */
function decimalText(value: unknown, scale: number): unknown {
  if (typeof value !== "number" && typeof value !== "bigint") return value;
  const whole = BigInt(value);
  const digits = String(whole < 0n ? -whole : whole).padStart(scale + 1, "0");
  const text = scale > 0 ? `${digits.slice(0, -scale)}.${digits.slice(-scale)}` : digits;
  return whole < 0n ? `-${text}` : text;
}

function signedBigEndian(bytes: Uint8Array): bigint {
  const value = bytes.reduce((sum, byte) => sum * 256n + BigInt(byte), 0n);
  return BigInt.asIntN(8 * bytes.length, value);
}

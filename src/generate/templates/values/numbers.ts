// Python's numbers: ints without a limit, floats, and the arithmetic between them. True and False are ints.
import { spend } from "../budget.ts";
import { fail } from "../errors.ts";
import { Float, type Value } from "./types.ts";

export type Int = number | bigint;

/** The int of a value that is one (or a bool), undefined otherwise. */
export function intOf(value: Value): Int | undefined {
  if (typeof value === "number" || typeof value === "bigint") return value;
  return typeof value === "boolean" ? Number(value) : undefined;
}

/** A bigint as the engine keeps ints: as a number where that is exact. */
export function normal(value: bigint): Int {
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
    ? Number(value)
    : value;
}

/** A number of the caller: an int where it is one exactly. */
export function fromNumber(value: number): Value {
  return Number.isSafeInteger(value) ? value + 0 : new Float(value);
}

/** The int of a whole number that may be beyond the safe integers. */
export function intFromNumber(value: number): Int {
  if (!Number.isFinite(value)) {
    fail(
      Number.isNaN(value)
        ? "cannot convert float NaN to integer"
        : "cannot convert float infinity to integer",
    );
  }
  const whole = Math.trunc(value);
  return Number.isSafeInteger(whole) ? whole + 0 : BigInt(whole);
}

function floatOf(value: Int | Float): number {
  if (value instanceof Float) return value.value;
  const float = Number(value);
  if (!Number.isFinite(float)) fail("int too large to convert to float");
  return float;
}

/** Ints of more bits than this have more digits than Python prints, by far. */
const MAX_BITS = 1_000_000;

const bits = (value: bigint): number => (value < 0n ? -value : value).toString(16).length * 4;

export type Operator = "+" | "-" | "*" | "/" | "//" | "%" | "**";

/** The result of an operator on two numbers. */
export function arithmetic(operator: Operator, a: Int | Float, b: Int | Float): Value {
  if (a instanceof Float || b instanceof Float) return floats(operator, floatOf(a), floatOf(b));
  if (typeof a === "number" && typeof b === "number") {
    let result: number | undefined;
    if (operator === "+") result = a + b;
    else if (operator === "-") result = a - b;
    else if (operator === "*") result = a * b;
    if (result !== undefined && Number.isSafeInteger(result)) return result + 0;
  }
  return ints(operator, a, b);
}

function ints(operator: Operator, a: Int, b: Int): Value {
  if (operator === "/") return divide(a, b);
  if (operator === "**") return power(a, b);
  if (operator === "//" && !b) fail("integer division or modulo by zero");
  if (operator === "%" && !b) fail("integer modulo by zero");
  if (typeof a === "number" && typeof b === "number") {
    if (operator === "//") return Math.floor(exactQuotient(a, b)) + 0;
    if (operator === "%") {
      const rest = a % b;
      return (rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest) + 0;
    }
  }
  const [x, y] = [BigInt(a), BigInt(b)];
  const size = bits(x) + bits(y);
  if (size > MAX_BITS) fail(`an int of more than ${MAX_BITS} bits`);
  spend(size);
  switch (operator) {
    case "+":
      return normal(x + y);
    case "-":
      return normal(x - y);
    case "*":
      return normal(x * y);
    case "//": {
      const quotient = x / y;
      return normal(x % y !== 0n && x < 0n !== y < 0n ? quotient - 1n : quotient);
    }
    default: {
      const rest = x % y;
      return normal(rest !== 0n && rest < 0n !== y < 0n ? rest + y : rest);
    }
  }
}

/** a / b such that its floor is right even where the division rounds up to a whole number. */
function exactQuotient(a: number, b: number): number {
  const rest = a % b;
  const whole = (a - rest) / b;
  return rest !== 0 && rest < 0 !== b < 0 ? whole - 1 : whole;
}

/** int / int, rounded once. */
function divide(a: Int, b: Int): Float {
  if (!b) fail("division by zero");
  if (typeof a === "number" && typeof b === "number") return new Float(a / b);
  let [x, y] = [BigInt(a), BigInt(b)];
  const negative = x < 0n !== y < 0n;
  if (x < 0n) x = -x;
  if (y < 0n) y = -y;
  // A quotient of at least 66 bits whose last bit says whether anything was left: the conversion then rounds rightly.
  const shift = BigInt(Math.max(0, bits(y) - bits(x) + 70));
  const quotient = (x << shift) / y;
  const sticky = (x << shift) % y === 0n ? quotient : quotient | 1n;
  const result = scale(Number(sticky), -Number(shift));
  if (!Number.isFinite(result)) fail("integer division result too large for a float");
  return new Float(negative ? -result : result);
}

/** x * 2 ** exponent without an overflow on the way. */
function scale(x: number, exponent: number): number {
  let result = x;
  let left = exponent;
  while (left < -1000) {
    result *= 2 ** -1000;
    left += 1000;
  }
  return result * 2 ** left;
}

function power(a: Int, b: Int): Value {
  if (b < 0) {
    if (!a) fail("0.0 cannot be raised to a negative power");
    return floats("**", floatOf(a), floatOf(b));
  }
  if (a === 0 || a === 1 || b === 0) return b === 0 ? 1 : a;
  const base = BigInt(a);
  if (a !== -1) {
    const size = bits(base) * Number(b);
    if (!(size <= MAX_BITS))
      fail(`${String(b)} is too large an exponent: the result would have some ${size} bits`);
    spend(size);
  }
  return normal(a === -1 ? (BigInt(b) % 2n === 0n ? 1n : -1n) : base ** BigInt(b));
}

function floats(operator: Operator, a: number, b: number): Float {
  switch (operator) {
    case "+":
      return new Float(a + b);
    case "-":
      return new Float(a - b);
    case "*":
      return new Float(a * b);
    case "/":
      if (b === 0) fail("float division by zero");
      return new Float(a / b);
    case "**": {
      if (a === 0 && b < 0) fail("0.0 cannot be raised to a negative power");
      if (a < 0 && Number.isFinite(a) && Number.isFinite(b) && !Number.isInteger(b)) {
        fail("a negative number raised to a fraction is complex, which templates do not support");
      }
      if (a === 1 || b === 0) return new Float(1);
      if (a === -1 && !Number.isFinite(b) && !Number.isNaN(b)) return new Float(1);
      const result = a ** b;
      if (!Number.isFinite(result) && Number.isFinite(a) && Number.isFinite(b))
        fail("Numerical result out of range");
      return new Float(result);
    }
  }
  if (b === 0) fail(operator === "%" ? "float modulo" : "float floor division by zero");
  // As CPython's float_divmod.
  let rest = a % b;
  let quotient = (a - rest) / b;
  if (rest !== 0) {
    if (b < 0 !== rest < 0) {
      rest += b;
      quotient -= 1;
    }
  } else rest = b < 0 ? -0 : 0;
  if (operator === "%") return new Float(rest);
  if (quotient === 0) return new Float(Math.sign(a / b) * 0);
  let floor = Math.floor(quotient);
  if (quotient - floor > 0.5) floor += 1;
  return new Float(floor);
}

/** A float as an exact fraction: numerator * 2 ** exponent. */
export function exact(value: number): { numerator: bigint; exponent: number } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const high = view.getUint32(0);
  const biased = (high >>> 20) & 0x7ff;
  const fraction = (BigInt(high & 0xfffff) << 32n) | BigInt(view.getUint32(4));
  const mantissa = biased === 0 ? fraction : fraction | (1n << 52n);
  return { numerator: value < 0 ? -mantissa : mantissa, exponent: Math.max(biased, 1) - 1075 };
}

/** |value| * 10 ** places as a whole number, ties to even. */
export function scaledDecimal(value: number, places: number): bigint {
  const { numerator, exponent } = exact(Math.abs(value));
  let top = numerator;
  let bottom = 1n;
  if (places >= 0) top *= 10n ** BigInt(places);
  else bottom *= 10n ** BigInt(-places);
  if (exponent >= 0) top <<= BigInt(exponent);
  else bottom <<= BigInt(-exponent);
  const quotient = top / bottom;
  const twice = 2n * (top % bottom);
  return twice > bottom || (twice === bottom && quotient % 2n === 1n) ? quotient + 1n : quotient;
}

/** round(value, places), half to even on the exact value. */
export function round(value: Int | Float, places: number): Value {
  if (!(value instanceof Float)) {
    if (places >= 0) return value;
    if (places < -400) return 0;
    const unit = 10n ** BigInt(-places);
    const whole = BigInt(value);
    const positive = whole < 0n ? -whole : whole;
    const rest = positive % unit;
    const up = 2n * rest > unit || (2n * rest === unit && (positive / unit) % 2n === 1n);
    const rounded = positive - rest + (up ? unit : 0n);
    return normal(whole < 0n ? -rounded : rounded);
  }
  const float = value.value;
  if (!Number.isFinite(float) || places > 323) return value;
  if (places < -308) return new Float(float < 0 ? -0 : 0 * float);
  const digits = scaledDecimal(float, places).toString();
  const result = Number(`${digits}e${-places}`);
  if (!Number.isFinite(result)) fail("rounded value too large to represent");
  return new Float(float < 0 || Object.is(float, -0) ? -result : result);
}

// Digits of numbers as printf and format() write them: exact, with ties to even.
import { spend } from "../../budget.ts";
import { fail } from "../../errors.ts";
import { type Int, scaledDecimal } from "../../values/numbers.ts";
import { bigintText } from "../../values/text.ts";

/** More places than this make no sense, and cost time. */
const MAX_PLACES = 100_000;

export function checkPlaces(places: number): void {
  if (!(places <= MAX_PLACES)) fail(`a number with ${places} places; at most ${MAX_PLACES} are allowed`);
  spend(4 * places + 350);
}

function fixed(value: number, places: number): string {
  const digits = scaledDecimal(value, places)
    .toString()
    .padStart(places + 1, "0");
  return places === 0 ? digits : `${digits.slice(0, -places)}.${digits.slice(-places)}`;
}

/** The digits of |value| rounded to places + 1 significant ones, and the power of ten of the first. */
function significant(value: number, places: number): { digits: string; exponent: number } {
  if (value === 0) return { digits: "0".repeat(places + 1), exponent: 0 };
  let exponent = Number(Math.abs(value).toExponential().split("e")[1]);
  let digits = scaledDecimal(value, places - exponent).toString();
  if (digits.length > places + 1) {
    exponent++;
    digits = scaledDecimal(value, places - exponent).toString();
  }
  return { digits, exponent };
}

function withExponent(digits: string, exponent: number, alternate: boolean): string {
  const rest = digits.slice(1);
  const point = rest !== "" || alternate ? "." : "";
  const size = String(Math.abs(exponent)).padStart(2, "0");
  return `${digits.charAt(0)}${point}${rest}e${exponent < 0 ? "-" : "+"}${size}`;
}

export interface FloatStyle {
  readonly type: "e" | "f" | "g";
  readonly places: number;
  readonly upper: boolean;
  readonly alternate: boolean;
  /** As format() without a type: at least one digit after the point. */
  readonly pointZero?: boolean;
}

/** |value| in a style, without a sign. */
export function floatDigits(value: number, style: FloatStyle): string {
  const text = styled(value, style);
  return style.upper ? text.toUpperCase() : text;
}

function styled(value: number, { type, places, alternate, pointZero = false }: FloatStyle): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return "inf";
  checkPlaces(places);
  if (type === "f") return fixed(value, places) + (alternate && places === 0 ? "." : "");
  if (type === "e") {
    const { digits, exponent } = significant(value, places);
    return withExponent(digits, exponent, alternate);
  }
  const precision = Math.max(1, places);
  const { digits, exponent } = significant(value, precision - 1);
  const kept = alternate ? digits : digits.replace(/(?!^)0+$/, "");
  if (exponent < -4 || exponent >= precision - (pointZero ? 1 : 0)) {
    return withExponent(kept, exponent, alternate);
  }
  if (exponent < 0) return `0.${"0".repeat(-exponent - 1)}${kept}`;
  const whole = kept.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  const fraction = kept.slice(exponent + 1);
  if (fraction !== "") return `${whole}.${fraction}`;
  return whole + (pointZero ? ".0" : alternate ? "." : "");
}

/** The digits of |value| in a base. */
export function intDigits(value: Int, base: 2 | 8 | 10 | 16): string {
  const positive = value < 0 ? -value : value;
  if (typeof positive === "number") return positive.toString(base);
  if (base === 10) return bigintText(positive);
  spend(positive.toString(16).length * 4);
  return positive.toString(base);
}

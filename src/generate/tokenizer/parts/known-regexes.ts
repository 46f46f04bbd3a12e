// The regexes of the tokenizers that most published models have, each with what it is in JavaScript. They have been looked
// through: the time that each takes grows no faster than the text. So they may run where nobody ends what runs too long.
// That a translation is the right one is tested against the translator, which is too large to be loaded for them.
import { type CompileRegex, UnknownRegex } from "./pattern.ts";
import { regexPattern } from "./splitting.ts";

/** Oniguruma's source; JavaScript's source and flags. */
export const KNOWN_REGEXES: readonly (readonly [oniguruma: string, source: string, flags: string])[] = [
  // Llama 3, and most that came after it
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\p{space}\\p{L}\\p{N}]+[\\r\\n]*|\\p{space}*[\\r\\n]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "giv",
  ],
  // Qwen2 and Qwen3
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\p{space}\\p{L}\\p{N}]+[\\r\\n]*|\\p{space}*[\\r\\n]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "giv",
  ],
  // Qwen3.5
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\p{space}\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\p{space}*[\\r\\n]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "giv",
  ],
  // gpt-oss
  [
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?:'[Ssſ]|'[Tt]|'[Rr][Ee]|'[Vv][Ee]|'[Mm]|'[Ll][Ll]|'[Dd])?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?:'[Ssſ]|'[Tt]|'[Rr][Ee]|'[Vv][Ee]|'[Mm]|'[Ll][Ll]|'[Dd])?|\\p{N}{1,3}| ?[^\\p{space}\\p{L}\\p{N}]+[\\r\\n\\/]*|\\p{space}*[\\r\\n]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "gv",
  ],
  // Mistral's Tekken
  [
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\p{space}\\p{L}\\p{N}]+[\\r\\n\\/]*|\\p{space}*[\\r\\n]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "gv",
  ],
  // GPT-2, where a file writes it out
  [
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{space}\\p{L}\\p{N}]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "gv",
  ],
  // DeepSeek V3
  ["\\p{N}{1,3}", "\\p{N}{1,3}", "gv"],
  // DeepSeek V3
  ["[一-龥぀-ゟ゠-ヿ]+", "[一-龥぀-ゟ゠-ヿ]+", "gv"],
  // DeepSeek V3
  [
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "[\\!\"\\#\\$\\%\\&'\\(\\)\\*\\+\\,\\-\\.\\/\\:\\;\\<\\=\\>\\?\\@\\[\\\\\\]\\^_\\`\\{\\|\\}\\~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\p{space}*[\\r\\n]+|\\p{space}+(?!\\P{space})|\\p{space}+",
    "gv",
  ],
  // BLOOM
  [" ?[^(\\s|[.,!?…。，、।۔،])]+", " ?[^\\(\\p{space}\\|\\.\\,\\!\\?…。，、।۔،\\)]+", "gv"],
];

/** @throws UnknownRegex */
export const knownPattern: CompileRegex = (oniguruma) => {
  const known = KNOWN_REGEXES.find(([source]) => source === oniguruma);
  if (known === undefined) throw new UnknownRegex("not among the known regexes");
  return regexPattern(new RegExp(known[1], known[2]));
};

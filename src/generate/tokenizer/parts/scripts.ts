// Splits texts where the script changes, as SentencePiece does. Kana and Han count as one script, a space as any.
import { lazy } from "../../../base/lazy.ts";
import { checkWords } from "../limits.ts";

const NAMES =
  "Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo Brahmi " +
  "Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Common Coptic Cuneiform Cypriot " +
  "Cyrillic Deseret Devanagari Duployan Egyptian_Hieroglyphs Elbasan Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati " +
  "Gurmukhi Han Hangul Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian " +
  "Javanese Kaithi Kannada Katakana Kayah_Li Kharoshthi Khmer Khojki Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu " +
  "Lycian Lydian Mahajani Malayalam Mandaic Manichaean Marchen Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs " +
  "Miao Modi Mongolian Mro Multani Myanmar Nabataean New_Tai_Lue Newa Nko Ogham Ol_Chiki Old_Hungarian Old_Italic " +
  "Old_North_Arabian Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau " +
  "Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala " +
  "Sora_Sompeng Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangut Telugu Thaana Thai " +
  "Tibetan Tifinagh Tirhuta Ugaritic Vai Warang_Citi Yi";

/** No script of its own: a space, or a character that no script has. */
const ANY = -1;
const hanLike = lazy(() => /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u30fc]/u);
const known = new Map<number, number>();
let tests: RegExp[] | undefined;

function scriptOf(code: number): number {
  let script = known.get(code);
  if (script !== undefined) return script;
  const character = String.fromCodePoint(code);
  if (character === " ") script = ANY;
  else if (hanLike().test(character)) script = NAMES.length;
  else {
    tests ??= NAMES.split(" ").map((name) => new RegExp(`\\p{Script=${name}}`, "u"));
    script = tests.findIndex((test) => test.test(character));
  }
  if (known.size < 100_000) known.set(code, script);
  return script;
}

/** Appends the pieces. What stands before the first character with a script is left out, as in the reference. */
export function splitByScript(text: string, pieces: string[]): boolean {
  let last: number | undefined;
  let begin = -1;
  let first = -1;
  for (let i = 0; i < text.length; ) {
    const code = text.codePointAt(i)!;
    const script = scriptOf(code);
    if (script !== ANY && script !== last) {
      if (begin >= 0) pieces.push(text.slice(begin, i));
      else first = i;
      checkWords(pieces.length);
      begin = i;
    }
    if (script !== ANY) last = script;
    i += code > 0xffff ? 2 : 1;
  }
  if (begin >= 0) pieces.push(text.slice(begin));
  return first === 0;
}

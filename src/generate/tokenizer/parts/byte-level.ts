// The printable character that GPT-2 writes for each byte, and texts written in them. No splitting, no vocabulary.

/** The character of each byte. */
export const BYTE_CHARACTERS: readonly string[] = characters();

/** The byte of each such character by its code, -1 for others. All codes are below 512. */
export const CHARACTER_BYTES: Int16Array = bytes();

function characters(): string[] {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

function bytes(): Int16Array {
  const table = new Int16Array(512).fill(-1);
  for (const [byte, character] of BYTE_CHARACTERS.entries()) table[character.charCodeAt(0)] = byte;
  return table;
}

/** The UTF-8 bytes of a text, each as its character. */
export function toByteCharacters(text: string): string {
  const encoded = Buffer.from(text, "utf8");
  let result = "";
  for (let i = 0; i < encoded.length; i++) result += BYTE_CHARACTERS[encoded[i]!];
  return result;
}

/** The bytes that a text of such characters stands for; undefined if it has any other character. */
export function fromByteCharacters(text: string): Uint8Array | undefined {
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const byte = text.charCodeAt(i) < 512 ? CHARACTER_BYTES[text.charCodeAt(i)]! : -1;
    if (byte < 0) return undefined;
    result[i] = byte;
  }
  return result;
}

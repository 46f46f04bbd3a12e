// Tokenizers that need no thread of their own to be safe: a file of moderate size, nothing in it that makes much of little,
// no regex but those that published models share. Most are such, and the first token of a model need not wait for a thread.
import { KNOWN_REGEXES, knownPattern } from "../tokenizer/parts/known-regexes.ts";
import { UnknownRegex } from "../tokenizer/parts/pattern.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { SandboxFailure } from "./failure.ts";
import type { Tasks, TokenizerDescription, TokenizerSource } from "./protocol.ts";
import {
  describeTokenizer,
  failureOf,
  type Loaded,
  makeTokenizer,
  readTokenizerFile,
} from "./tokenizer-file.ts";

/** Bytes of a tokenizer's file. Parsing it, and what is made of it, take a fraction of a second and some 20 times as much memory. */
const LONGEST_FILE = 8 * 2 ** 20;
/** Characters of all texts of a request: some milliseconds' work. */
const LONGEST_TEXT = 2 ** 14;

/** Models that take a time in proportion to the text. WordPiece's grows with the square of its longest word. */
const MODELS: readonly unknown[] = ["BPE", "Unigram", "WordLevel"];
/** Characters of JSON of the parts around the model: a chain of many can make a long text of a short one. */
const MOST_JSON = {
  normalizer: 1024,
  pre_tokenizer: 2048 + Math.max(...KNOWN_REGEXES.map(([source]) => 2 * source.length)),
  post_processor: 2 ** 14,
  decoder: 4096,
} as const;
/** Different texts in what adds tokens: the names of members are among them. */
const MOST_TEXTS = 4096;
/** The sum of their different lengths: so many characters may have to be looked at for one of a text, to find the added tokens. */
const MOST_LENGTHS = 8192;

/** A tokenizer that may be used on the thread that everything else runs on. */
export class PlainTokenizer {
  readonly description: TokenizerDescription;
  readonly #tokenizer: Tokenizer;

  private constructor(loaded: Loaded) {
    this.description = describeTokenizer(loaded);
    this.#tokenizer = loaded.tokenizer;
  }

  /**
   * Undefined if it is a tokenizer for the sandbox.
   * @param bytes size of the file
   * @throws SandboxFailure for what is in the file
   */
  static open(source: TokenizerSource, bytes: number): PlainTokenizer | undefined {
    if (bytes > LONGEST_FILE) return undefined;
    const file = readTokenizerFile({ ...source, limit: LONGEST_FILE });
    if (!isPlain(file.json, source)) return undefined;
    try {
      return new PlainTokenizer(makeTokenizer(file, source.files, knownPattern));
    } catch (error) {
      if (error instanceof UnknownRegex) return undefined;
      throw error;
    }
  }

  /** Whether texts of so many characters are encoded here. */
  takes(characters: number): boolean {
    return characters <= LONGEST_TEXT;
  }

  /** @throws SandboxFailure, as the same task does in the sandbox */
  encode({ texts, addSpecialTokens, maxTokens }: Omit<Tasks["encode"]["input"], "tokenizer">): number[][] {
    try {
      return texts.map((text) => this.#tokenizer.encode(text, { addSpecialTokens, maxTokens }));
    } catch (error) {
      const { kind, message } = failureOf(error);
      throw new SandboxFailure(kind, message);
    }
  }
}

function isPlain(json: Record<string, unknown>, { files }: TokenizerSource): boolean {
  const model = json.model as { type?: unknown } | null | undefined;
  if (!MODELS.includes(model?.type)) return false;
  for (const [part, most] of Object.entries(MOST_JSON))
    if ((JSON.stringify(json[part]) ?? "").length > most) return false;
  const texts = new Set<string>();
  collectTexts([json.added_tokens, ...Object.values(files)], texts);
  const lengths = new Set([...texts].map(({ length }) => length));
  const sum = [...lengths].reduce((total, length) => total + length, 0);
  return texts.size <= MOST_TEXTS && sum <= MOST_LENGTHS;
}

/** All texts in a value, one more than allowed at most. */
function collectTexts(value: unknown, texts: Set<string>): void {
  if (texts.size > MOST_TEXTS) return;
  if (typeof value === "string") texts.add(value);
  else if (typeof value === "object" && value !== null)
    for (const [name, member] of Object.entries(value)) {
      if (!Array.isArray(value)) texts.add(name);
      collectTexts(member, texts);
    }
}

// A tokenizer as tokenizer.json describes it, with the stages of the Rust library of the same name: added tokens,
// normalizer, pre-tokenizer, model, post-processor, decoder. Pure and synchronous; limits of time are its caller's.
import { AddedTokens, readAddedToken } from "./added-tokens.ts";
import { type ConfigFiles, configuredTokens, type Roles } from "./configured-tokens.ts";
import { Fields, TokenizingError } from "./fields.ts";
import { LONGEST_INPUT } from "./limits.ts";
import { Bpe } from "./models/bpe.ts";
import type { Model } from "./models/model.ts";
import { Unigram } from "./models/unigram.ts";
import { WordLevel, WordPiece } from "./models/words.ts";
import { type Decode, readDecoder } from "./parts/decoders.ts";
import { type Normalizer, readNormalizer } from "./parts/normalizers.ts";
import type { CompileRegex } from "./parts/pattern.ts";
import { type PostProcess, readPostProcessor } from "./parts/post-processors.ts";
import { inByteCharacters, type PreTokenizer, readPreTokenizer } from "./parts/pre-tokenizers.ts";
import { packTokens, type TokenTableData } from "./token-table.ts";

export interface EncodeRequest {
  readonly addSpecialTokens: boolean;
  /** Give up with {@link TooManyTokens} beyond this many. */
  readonly maxTokens?: number | undefined;
}

/** A text has more tokens than its caller can use. */
export class TooManyTokens extends Error {}

export class Tokenizer {
  readonly roles: Roles;
  /** No token stands for more bytes of text than this; undefined where there is no such bound. */
  readonly longestToken: number | undefined;
  readonly #added: AddedTokens;
  readonly #splitsSpecial: boolean;
  readonly #preTokenizer: PreTokenizer | undefined;
  readonly #model: Model;
  /** The model takes words as text where the pre-tokenizer would write their bytes. */
  readonly #modelTakesBytes: boolean;
  readonly #postProcess: PostProcess | undefined;
  readonly #decode: Decode | undefined;

  /** @throws FormatError naming the value of tokenizer.json that cannot be used; what `compile` throws */
  constructor(json: unknown, files: ConfigFiles, compile: CompileRegex) {
    const fields = new Fields(json, "");
    const part = <T>(name: string, read: (fields: Fields) => T): T | undefined =>
      fields.raw(name) === undefined ? undefined : read(fields.object(name));
    const normalizer = part("normalizer", (fields) => readNormalizer(fields, compile));
    this.#preTokenizer = part("pre_tokenizer", (fields) => readPreTokenizer(fields, compile));
    const model = readModel(fields.object("model"), this.#preTokenizer?.endsInBytes ?? false);
    this.#model = model;
    this.#modelTakesBytes = model instanceof Bpe && model.takesBytes;
    this.#postProcess = part("post_processor", readPostProcessor);
    this.#decode = part("decoder", (decoder) => readDecoder(decoder, compile));
    this.#added = new AddedTokens(model, normalizer?.normalize);
    if (fields.raw("added_tokens") !== undefined)
      this.#added.add(fields.objects("added_tokens").map((token) => readAddedToken(token)));
    const { tokens, roles, splitsSpecial } = configuredTokens(files, this.#added);
    this.#added.add(tokens);
    this.#splitsSpecial = splitsSpecial;
    this.roles = roles;
    this.longestToken = longestToken(model, normalizer, this.#preTokenizer, this.#added);
  }

  idOf(token: string): number | undefined {
    return this.#added.idOf(token);
  }

  /** Token ids of a text. Throws TokenizingError where the tokenizer has none for it. */
  encode(text: string, { addSpecialTokens, maxTokens = Number.POSITIVE_INFINITY }: EncodeRequest): number[] {
    if (text.length > LONGEST_INPUT)
      throw new TokenizingError(
        `a text of ${text.length} characters is longer than the ${LONGEST_INPUT} that can be tokenized at once`,
      );
    const ids: number[] = [];
    for (const part of this.#added.split(text.toWellFormed(), this.#splitsSpecial)) {
      if ("id" in part) ids.push(part.id);
      else
        for (const word of this.#words(part.text, part.start === 0)) {
          this.#model.encode(word, ids);
          if (ids.length > maxTokens) throw new TooManyTokens();
        }
    }
    const result = addSpecialTokens && this.#postProcess !== undefined ? this.#postProcess(ids) : ids;
    if (result.length > maxTokens) throw new TooManyTokens();
    return result;
  }

  #words(text: string, atStart: boolean): string[] {
    if (this.#preTokenizer === undefined) return [text];
    const words = this.#preTokenizer.split({ list: [text], atStart });
    return this.#preTokenizer.endsInBytes && !this.#modelTakesBytes
      ? inByteCharacters(words).list
      : words.list;
  }

  /** The text of tokens, given as the texts of the vocabulary. */
  decode(tokens: string[]): string {
    return this.#decode === undefined ? tokens.join(" ") : this.#decode(tokens).join("");
  }

  /** The texts of all tokens by id. */
  tokens(): TokenTableData {
    const texts = new Map<number, string>();
    const listed = this.#model.tokens;
    if (listed !== undefined) for (const [id, token] of listed.entries()) texts.set(id, token);
    else for (const [token, id] of this.#model.vocabulary) texts.set(id, token);
    for (const [id, token] of this.#added.byId) texts.set(id, this.#added.textOf(token));
    return packTokens(texts);
  }

  /** The texts that skip_special_tokens leaves out. */
  specialTokens(): string[] {
    return [...this.#added.byId.values()]
      .map(({ content }) => content)
      .filter((text) => this.#added.isSpecial(text));
  }
}

/** Old files do not name the model's type: then it is the one whose members are there. */
function readModel(fields: Fields, isByteLevel: boolean): Model {
  const has = (name: string) => fields.raw(name) !== undefined;
  const guessed = () =>
    has("merges")
      ? "BPE"
      : Array.isArray(fields.raw("vocab"))
        ? "Unigram"
        : has("max_input_chars_per_word")
          ? "WordPiece"
          : "WordLevel";
  switch (fields.choice("type", ["BPE", "Unigram", "WordPiece", "WordLevel"] as const, guessed())) {
    case "BPE":
      return new Bpe(fields, isByteLevel);
    case "Unigram":
      return new Unigram(fields);
    case "WordPiece":
      return new WordPiece(fields);
    case "WordLevel":
      return new WordLevel(fields);
  }
}

function longestToken(
  model: Model,
  normalizer: Normalizer | undefined,
  preTokenizer: PreTokenizer | undefined,
  added: AddedTokens,
): number | undefined {
  const shrinks = normalizer === undefined ? 1 : normalizer.shrinks;
  if (model.longest === undefined || shrinks === undefined || preTokenizer?.drops || added.takeSpace)
    return undefined;
  let longest = model.longest;
  for (const { content } of added.byId.values()) longest = Math.max(longest, Buffer.byteLength(content));
  return longest * shrinks;
}

// The tokens that tokenizer_config.json, special_tokens_map.json and added_tokens.json add to those of tokenizer.json,
// as transformers 5's PreTrainedTokenizerFast (TokenizersBackend) takes them. What the files say of templates is not its concern.
import { type AddedToken, type AddedTokens, readAddedToken } from "./added-tokens.ts";
import { Fields, FormatError } from "./fields.ts";

/** The files beside tokenizer.json; undefined where there is none. */
export interface ConfigFiles {
  readonly config?: Readonly<Record<string, unknown>> | undefined;
  readonly specialTokensMap?: Readonly<Record<string, unknown>> | undefined;
  readonly addedTokens?: Readonly<Record<string, unknown>> | undefined;
}

/** Special tokens by their role, such as eos_token. */
export type Roles = Readonly<Record<string, string>>;

export const ROLES = [
  "bos_token",
  "eos_token",
  "unk_token",
  "sep_token",
  "pad_token",
  "cls_token",
  "mask_token",
];

export interface ConfiguredTokens {
  readonly tokens: readonly AddedToken[];
  readonly roles: Roles;
  /** Special tokens in texts are cut up like other text. */
  readonly splitsSpecial: boolean;
}

export function configuredTokens(files: ConfigFiles, known: AddedTokens): ConfiguredTokens {
  const settings = { ...files.config };
  const config = new Fields(settings, "tokenizer_config.json:");
  if (!isFilled(settings.extra_special_tokens) && settings.additional_special_tokens !== undefined) {
    settings.extra_special_tokens = settings.additional_special_tokens;
    delete settings.additional_special_tokens;
  }
  const declared = declaredTokens(config);
  // Written by older versions; what they say is in added_tokens_decoder otherwise.
  const isLegacy = config.raw("added_tokens_decoder") === undefined;
  if (isLegacy) readSpecialTokensMap(files.specialTokensMap ?? {}, settings);
  const named = namedTokens(settings);
  const extra = Array.isArray(settings.extra_special_tokens)
    ? settings.extra_special_tokens.flatMap(
        (token, i) => specialToken(token, `extra_special_tokens[${i}]`) ?? [],
      )
    : [];
  if (isLegacy && files.addedTokens !== undefined) {
    const special = new Set([...named.values(), ...extra].map(({ content }) => content));
    declared.push(...legacyAddedTokens(files.addedTokens, special));
  }
  // A token without a description of its own keeps what is known of it.
  const described = new Set([...declared, ...known.byId.values()].map(({ content }) => content));
  const isRole = new Set([...named.values()].map(({ content }) => content));
  const tokens = declared.map((token) => (isRole.has(token.content) ? { ...token, special: true } : token));
  for (const token of [...named.values(), ...extra]) {
    if (described.has(token.content)) continue;
    described.add(token.content);
    tokens.push(token);
  }
  const roles: Record<string, string> = {};
  for (const [role, { content }] of named) roles[role] = content;
  return { tokens, roles, splitsSpecial: settings.split_special_tokens === true };
}

/** `added_tokens_decoder`, in the order of its ids. The ids themselves do not count: tokens get the next free ones. */
function declaredTokens(config: Fields): AddedToken[] {
  const decoder = config.raw("added_tokens_decoder");
  if (decoder === undefined) return [];
  const entries = config.object("added_tokens_decoder");
  return Object.keys(decoder as object)
    .map((id) => {
      if (!/^\s*\d+\s*$/.test(id))
        throw new FormatError(entries.key(id.slice(0, 60)), "must be named by a token id");
      return [Number(id), readAddedToken(entries.object(id))] as const;
    })
    .sort(([a], [b]) => a - b)
    .map(([, token]) => token);
}

/** The roles' tokens, then those that other members whose names end in _token, or extra_special_tokens, name. */
function namedTokens(settings: Record<string, unknown>): Map<string, AddedToken> {
  const named = new Map<string, AddedToken>();
  const add = (name: string, value: unknown) => {
    const token = specialToken(value, name);
    if (token !== undefined) named.set(name, token);
  };
  for (const role of ROLES) add(role, settings[role]);
  for (const [name, value] of Object.entries(settings))
    if (name.endsWith("_token") && !ROLES.includes(name) && typeof value !== "boolean") add(name, value);
  const extra = settings.extra_special_tokens;
  if (isObject(extra)) for (const [name, value] of Object.entries(extra)) add(name, value);
  return named;
}

/** A special token written as its text, or as an object that describes it. */
function specialToken(value: unknown, key: string): AddedToken | undefined {
  if (value === undefined || value === null || value === "") return undefined;
  const place = `tokenizer_config.json: ${key}`;
  if (typeof value === "string") return readAddedToken(new Fields({ content: value }, place), true);
  if (!isObject(value))
    throw new FormatError(place, "must be a token, as a text or as an object with its content");
  return readAddedToken(
    new Fields({ ...value, special: true, normalized: value.normalized ?? false }, place),
  );
}

/** Its members take the place of those of tokenizer_config.json; lists of further tokens are joined. */
function readSpecialTokensMap(
  map: Readonly<Record<string, unknown>>,
  settings: Record<string, unknown>,
): void {
  for (const [key, value] of Object.entries(map)) {
    if (key === "extra_special_tokens" && Array.isArray(value)) {
      const before = Array.isArray(settings[key]) ? settings[key] : [];
      settings[key] = [...before, ...value];
    } else settings[key] = value;
  }
  if (settings.extra_special_tokens === undefined && settings.additional_special_tokens !== undefined)
    settings.extra_special_tokens = settings.additional_special_tokens;
}

/** added_tokens.json: ids by token. */
function legacyAddedTokens(
  file: Readonly<Record<string, unknown>>,
  special: ReadonlySet<string>,
): AddedToken[] {
  return Object.entries(file)
    .map(([content, id]) => {
      if (typeof id !== "number")
        throw new FormatError(
          `added_tokens.json: ${JSON.stringify(content.slice(0, 60))}`,
          "must be a token id",
        );
      const isSpecial = special.has(content);
      const text = content.toWellFormed();
      return [
        id,
        {
          content: text,
          single_word: false,
          lstrip: false,
          rstrip: false,
          normalized: !isSpecial,
          special: isSpecial,
        },
      ] as const;
    })
    .sort(([a], [b]) => a - b)
    .map(([, token]) => token);
}

function isFilled(value: unknown): boolean {
  return Array.isArray(value)
    ? value.length > 0
    : isObject(value)
      ? Object.keys(value).length > 0
      : Boolean(value);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

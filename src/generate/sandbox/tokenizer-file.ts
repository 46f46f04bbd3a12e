// Makes a tokenizer of its file and says what of it the main thread keeps. Runs in the sandbox, and on the main thread for
// tokenizers that need none: see plain-tokenizer.ts.
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { isJsonObject, type JsonObject, parseJson } from "../../base/json.ts";
import type { ConfigFiles } from "../tokenizer/configured-tokens.ts";
import { Fields, FormatError, TokenizingError } from "../tokenizer/fields.ts";
import { readDecoder } from "../tokenizer/parts/decoders.ts";
import { type CompileRegex, UnknownRegex } from "../tokenizer/parts/pattern.ts";
import { Tokenizer, TooManyTokens } from "../tokenizer/tokenizer.ts";
import { SandboxFailure } from "./failure.ts";
import type { FailureKind, TokenizerDescription, TokenizerSource } from "./protocol.ts";

/** A decoder whose description is longer is kept here. */
const LARGE_DECODER = 100_000;

export interface Loaded {
  readonly tokenizer: Tokenizer;
  readonly decoder: unknown;
  readonly fingerprint: string;
}

export interface TokenizerFile {
  readonly json: JsonObject;
  readonly fingerprint: string;
}

/** What is in a tokenizer's file. @throws SandboxFailure */
export function readTokenizerFile(source: TokenizerSource): TokenizerFile {
  const { text, fingerprint } = read(source);
  let json: unknown;
  try {
    json = parseJson(text);
  } catch (error) {
    throw new SandboxFailure(
      "format",
      `is not valid JSON (${messageOf(error)}); copy the file again, it may be cut off`,
    );
  }
  if (!isJsonObject(json)) throw new SandboxFailure("format", "is not a JSON object");
  return { json, fingerprint };
}

/** @throws SandboxFailure; UnknownRegex, if `compile` does */
export function makeTokenizer(
  { json, fingerprint }: TokenizerFile,
  files: ConfigFiles,
  compile: CompileRegex,
): Loaded {
  try {
    return { tokenizer: new Tokenizer(json, files, compile), decoder: json.decoder, fingerprint };
  } catch (error) {
    if (error instanceof UnknownRegex) throw error;
    throw new SandboxFailure("format", `is not a tokenizer that can be used (${messageOf(error)})`);
  }
}

/** Opens without waiting, so that a pipe in the file's place is seen as one. */
function read({ path, limit, fingerprint: expected }: TokenizerSource): {
  text: string;
  fingerprint: string;
} {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    throw new SandboxFailure("read", `cannot be read (${messageOf(error)})`);
  }
  try {
    const stat = fstatSync(file, { bigint: true });
    if (!stat.isFile()) throw new SandboxFailure("format", "is not a file but a pipe, a device or a folder");
    if (stat.size > BigInt(limit))
      throw new SandboxFailure("format", `has ${stat.size} bytes, at most ${limit} are read`);
    const fingerprint = `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}`;
    if (expected !== undefined && expected !== fingerprint)
      throw new SandboxFailure("changed", "has changed since the tokenizer was opened; open it again");
    return { text: readFileSync(file, "utf8"), fingerprint };
  } catch (error) {
    throw error instanceof SandboxFailure
      ? error
      : new SandboxFailure("read", `cannot be read (${messageOf(error)})`);
  } finally {
    closeSync(file);
  }
}

/** What the main thread keeps of it. */
export function describeTokenizer({ tokenizer, decoder, fingerprint }: Loaded): TokenizerDescription {
  const roleIds: Record<string, number> = {};
  for (const [role, token] of Object.entries(tokenizer.roles)) {
    const id = tokenizer.idOf(token);
    if (id !== undefined) roleIds[role] = id;
  }
  const decodesInSandbox = !decodesAnywhere(decoder);
  return {
    fingerprint,
    tokens: tokenizer.tokens(),
    specialTokens: tokenizer.specialTokens(),
    roles: tokenizer.roles,
    roleIds,
    decoder: decodesInSandbox ? undefined : decoder,
    decodesInSandbox,
    longestToken: tokenizer.longestToken,
  };
}

/** Whether a decoder is short and has no regex, so that it may run token by token on the main thread. */
function decodesAnywhere(decoder: unknown): boolean {
  if (decoder === undefined || decoder === null) return true;
  let hasRegex = false;
  readDecoder(new Fields(decoder, "decoder"), () => {
    hasRegex = true;
    return { spans: () => [] };
  });
  return !hasRegex && JSON.stringify(decoder).length <= LARGE_DECODER;
}

/** What a task failed of, for who asked for it. */
export function failureOf(error: unknown): { kind: FailureKind; message: string } {
  const message = messageOf(error);
  if (error instanceof SandboxFailure) return { kind: error.kind, message };
  if (error instanceof FormatError) return { kind: "format", message };
  if (error instanceof TooManyTokens) return { kind: "too-many", message };
  if (error instanceof TokenizingError) return { kind: "tokenizing", message };
  const kind = (error as { kind?: unknown } | null)?.kind;
  if (kind === "syntax" || kind === "refused" || kind === "failed") return { kind, message };
  return { kind: "failed", message };
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 2000);
}

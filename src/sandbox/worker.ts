// What the sandbox's thread runs: one task after another, with regexes, normalizers and templates of files that nobody
// has vouched for. It has no limits of its own; who started it ends it. Bundled into a text by scripts/worker-text.ts,
// because a worker's file would not survive bundling, so nothing may import this file as it is.
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { type MessagePort, workerData } from "node:worker_threads";
import { isJsonObject, parseJson } from "../base/json.ts";
import { renderTemplate } from "../templates/index.ts";
import { readDecoder } from "../tokenizer/decoders.ts";
import { Fields, FormatError, TokenizingError } from "../tokenizer/fields.ts";
import { Tokenizer, TooManyTokens } from "../tokenizer/tokenizer.ts";
import type {
  FailureKind,
  Reply,
  Request,
  TaskName,
  Tasks,
  TokenizerDescription,
  TokenizerSource,
} from "./protocol.ts";

/** A decoder whose description is longer is kept here. */
const LARGE_DECODER = 100_000;

interface Loaded {
  readonly tokenizer: Tokenizer;
  readonly decoder: unknown;
  readonly fingerprint: string;
}

class Failure extends Error {
  readonly kind: FailureKind;
  constructor(kind: FailureKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

const { port, replies } = workerData as { port: MessagePort; replies: Int32Array };
const tokenizers = new Map<number, Loaded>();

const TASKS: { [T in TaskName]: (input: Tasks[T]["input"]) => Tasks[T]["output"] } = {
  describe: ({ tokenizer }) => describe(loaded(tokenizer)),
  encode: ({ tokenizer, texts, addSpecialTokens, maxTokens }) =>
    texts.map((text) =>
      Int32Array.from(loaded(tokenizer).tokenizer.encode(text, { addSpecialTokens, maxTokens })),
    ),
  decode: ({ tokenizer, tokens }) => loaded(tokenizer).tokenizer.decode(tokens),
  render: ({ template, variables }) => renderTemplate(template, variables),
};

port.on("message", (request: Request) => {
  const { id } = request;
  const handle = "tokenizer" in request.input ? request.input.tokenizer : -1;
  let reply: Reply;
  try {
    for (const old of request.released) tokenizers.delete(old);
    if (request.source !== undefined) load(handle, request.source);
    const run = TASKS[request.task] as (input: unknown) => unknown;
    reply = { id, value: run(request.input), has: tokenizers.has(handle) };
  } catch (error) {
    reply = { id, failure: failureOf(error), has: tokenizers.has(handle) };
  }
  answer(reply);
});
answer({ id: 0, ready: true });

/** The main thread may sleep until the number of replies changes. */
function answer(reply: Reply): void {
  port.postMessage(reply);
  Atomics.add(replies, 0, 1);
  Atomics.notify(replies, 0);
}

function loaded(handle: number): Loaded {
  const tokenizer = tokenizers.get(handle);
  if (tokenizer === undefined) throw new Failure("ended", "the tokenizer is not there");
  return tokenizer;
}

function load(handle: number, source: TokenizerSource): void {
  const { text, fingerprint } = read(source);
  let json: unknown;
  try {
    json = parseJson(text);
  } catch (error) {
    throw new Failure(
      "format",
      `is not valid JSON (${messageOf(error)}); copy the file again, it may be cut off`,
    );
  }
  if (!isJsonObject(json)) throw new Failure("format", "is not a JSON object");
  try {
    const tokenizer = new Tokenizer(json, source.files);
    tokenizers.set(handle, { tokenizer, decoder: json.decoder, fingerprint });
  } catch (error) {
    throw new Failure("format", `is not a tokenizer that can be used (${messageOf(error)})`);
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
    throw new Failure("read", `cannot be read (${messageOf(error)})`);
  }
  try {
    const stat = fstatSync(file, { bigint: true });
    if (!stat.isFile()) throw new Failure("format", "is not a file but a pipe, a device or a folder");
    if (stat.size > BigInt(limit))
      throw new Failure("format", `has ${stat.size} bytes, at most ${limit} are read`);
    const fingerprint = `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}`;
    if (expected !== undefined && expected !== fingerprint)
      throw new Failure("changed", "has changed since the tokenizer was opened; open it again");
    return { text: readFileSync(file, "utf8"), fingerprint };
  } catch (error) {
    throw error instanceof Failure ? error : new Failure("read", `cannot be read (${messageOf(error)})`);
  } finally {
    closeSync(file);
  }
}

function describe({ tokenizer, decoder, fingerprint }: Loaded): TokenizerDescription {
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

function failureOf(error: unknown): { kind: FailureKind; message: string } {
  const message = messageOf(error);
  if (error instanceof Failure) return { kind: error.kind, message };
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

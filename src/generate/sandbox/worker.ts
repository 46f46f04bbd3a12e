// What the sandbox's thread runs: one task after another, with regexes, normalizers and templates of files that nobody
// has vouched for. It has no limits of its own; who started it ends it. Bundled into a text by scripts/worker-text.ts,
// because a worker's file would not survive bundling, so nothing may import this file as it is.
import { type MessagePort, workerData } from "node:worker_threads";
import { renderTemplate } from "../templates/index.ts";
import { onigurumaPattern } from "../tokenizer/parts/oniguruma.ts";
import { SandboxFailure } from "./failure.ts";
import type { Reply, Request, TaskName, Tasks, TokenizerSource } from "./protocol.ts";
import {
  describeTokenizer,
  failureOf,
  type Loaded,
  makeTokenizer,
  readTokenizerFile,
} from "./tokenizer-file.ts";

const { port, replies } = workerData as { port: MessagePort; replies: Int32Array };
const tokenizers = new Map<number, Loaded>();

const TASKS: { [T in TaskName]: (input: Tasks[T]["input"]) => Tasks[T]["output"] } = {
  describe: ({ tokenizer }) => describeTokenizer(loaded(tokenizer)),
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
    if (request.source !== undefined) tokenizers.set(handle, load(request.source));
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
  if (tokenizer === undefined) throw new SandboxFailure("ended", "the tokenizer is not there");
  return tokenizer;
}

function load(source: TokenizerSource): Loaded {
  return makeTokenizer(readTokenizerFile(source), source.files, onigurumaPattern);
}

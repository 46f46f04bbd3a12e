// Mistakes about MODEL that can be found before anything is loaded: a wrong path, no tokenizer, no chat template.

import { ConfigError, UnsupportedError } from "../base/errors.ts";
import { requireModelFolder } from "../formats/model-path.ts";
import { SandboxFailure } from "../generate/sandbox/failure.ts";
import { ChatTemplates } from "../generate/text/chat-template.ts";
import { readTokenizerFiles } from "../generate/text/tokenizer-files.ts";

/** Throws CheckpointError or UnsupportedError that says what to do instead. Reads the tokenizer's files, no weights. */
export async function checkModel(
  dir: string,
  { chat, adapter }: { chat: boolean; adapter?: string | undefined },
): Promise<void> {
  await requireModelFolder(dir);
  const { chatTemplates, specialTokens } = await readTokenizerFiles(dir, adapter);
  if (!chat) return;
  const instead = 'use `spillway run MODEL "text"` to continue plain text';
  if (chatTemplates.size === 0) {
    throw new UnsupportedError(`${dir} has no chat template, so it is probably not a chat model; ${instead}`);
  }
  try {
    await new ChatTemplates(chatTemplates, specialTokens).renderAsync([{ role: "user", content: "" }]);
  } catch (error) {
    if (error instanceof ConfigError && error.cause instanceof SandboxFailure && error.cause.isLimit)
      throw error;
    // A template that wants other messages than this one is a template.
    if (!(error instanceof UnsupportedError)) return;
    throw new UnsupportedError(`${dir}: ${error.message}; ${instead}`, { cause: error });
  }
}

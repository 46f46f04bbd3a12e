// What the main thread and the sandbox's thread say to each other. Types and plain values only.
import type { ConfigFiles, Roles } from "../tokenizer/configured-tokens.ts";
import type { TokenTableData } from "../tokenizer/token-table.ts";

/** Where a tokenizer comes from. The sandbox reads its file itself, also when it has to begin anew. */
export interface TokenizerSource {
  /** Path of tokenizer.json. */
  readonly path: string;
  /** Most bytes of that file. */
  readonly limit: number;
  readonly files: ConfigFiles;
  /** Size and time of the file as first read: it must not change under a tokenizer in use. */
  fingerprint?: string | undefined;
}

/** What the main thread keeps of a tokenizer. */
export interface TokenizerDescription {
  readonly fingerprint: string;
  readonly tokens: TokenTableData;
  readonly specialTokens: readonly string[];
  /** Special tokens and their ids by role. */
  readonly roles: Roles;
  readonly roleIds: Readonly<Record<string, number>>;
  /** The decoder as the file has it; undefined if texts must be decoded in the sandbox. */
  readonly decoder: unknown;
  readonly decodesInSandbox: boolean;
  readonly longestToken: number | undefined;
}

/** Every task of the sandbox: what it is given and what it returns. */
export interface Tasks {
  describe: { input: { tokenizer: number }; output: TokenizerDescription };
  encode: {
    input: {
      tokenizer: number;
      texts: readonly string[];
      addSpecialTokens: boolean;
      maxTokens: number | undefined;
    };
    output: Int32Array[];
  };
  decode: { input: { tokenizer: number; tokens: string[] }; output: string };
  render: { input: { template: string; variables: Record<string, unknown> }; output: string };
}

export type TaskName = keyof Tasks;

/** Why a task failed. `syntax`, `refused` and `failed` are a template's; `format`, `read`, `changed`, `tokenizing` and `too-many` a tokenizer's. */
export type FailureKind =
  | "syntax"
  | "refused"
  | "failed"
  | "format"
  | "read"
  | "changed"
  | "tokenizing"
  | "too-many"
  | "time"
  | "memory"
  | "ended";

export interface Request<T extends TaskName = TaskName> {
  readonly id: number;
  readonly task: T;
  readonly input: Tasks[T]["input"];
  /** The tokenizer that the task is about, if the sandbox does not have it. */
  readonly source?: TokenizerSource | undefined;
  /** Tokenizers that are not needed any more. */
  readonly released: readonly number[];
}

/** `has`: the thread has the tokenizer that the task was about. */
export type Reply =
  | { readonly id: number; readonly ready: true }
  | { readonly id: number; readonly has: boolean; readonly value: unknown }
  | { readonly id: number; readonly has: boolean; readonly failure: { kind: FailureKind; message: string } };

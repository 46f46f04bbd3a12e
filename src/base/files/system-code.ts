import { SpillwayError } from "../errors.ts";

/** The system's code of an error ("ENOENT"); our own errors have none. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || error instanceof SpillwayError || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

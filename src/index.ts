// The public API, nothing else.
export * from "./errors.ts";

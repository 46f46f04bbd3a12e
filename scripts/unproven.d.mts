// Types of unproven.mjs, for its test.
import type { Proof, Unproven } from "../test/support/unproven.ts";

export function unprovenByAny(proofs: readonly Pick<Proof, "proven" | "unproven">[]): Unproven[];

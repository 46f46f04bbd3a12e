// Weights packed to fewer bits without loss.
export { largestPacked, packedBytes } from "./format.ts";
export { PackedMemory } from "./packed-memory.ts";
export { Packer, packBf16 } from "./packer.ts";

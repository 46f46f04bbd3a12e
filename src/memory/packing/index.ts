// Weights packed to fewer bits without loss.
export { PackedMemory } from "./packed-memory.ts";
export { Packer, packBf16 } from "./packer.ts";

// What is used of WebAssembly's JavaScript interface; Node's type definitions leave it out.
declare namespace WebAssembly {
  class Memory {
    constructor(limits: { initial: number; maximum: number; shared?: boolean });
    /** Of a shared memory a SharedArrayBuffer; a new one after it has grown. */
    readonly buffer: ArrayBuffer;
    /** In pages; throws RangeError where the system has no memory for it. */
    grow(pages: number): number;
  }
  class Module {
    constructor(binary: Uint8Array);
  }
  class Instance {
    constructor(module: Module, imports: Record<string, Record<string, Memory>>);
    readonly exports: unknown;
  }
}

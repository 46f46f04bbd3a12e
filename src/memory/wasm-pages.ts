// How much memory a WebAssembly module may have.

/** Bytes of a page of WebAssembly. */
export const WASM_PAGE = 65_536;

/** 4 GiB less a page, so that the end of every range has an address of 32 bits. */
export const MOST_WASM_PAGES = 65_535;

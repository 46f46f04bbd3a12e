// Modules that scripts/worker-text.ts makes: a TypeScript file and all it imports, bundled into one text.
declare module "*?text" {
  const source: string;
  export default source;
}

// What people get from the package's types: every name that a public signature needs can be imported, mistakes do not
// compile, and what is inside a model or a trainer cannot be reached.
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { expect, test } from "vitest";
import type { AutoModelForCausalLM, CausalLM, MergeOptions, PretrainedOptions, Trainer } from "./index.ts";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Names of this package's types that public declarations mention and the package does not export. */
function missing(): string[] {
  const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const program = ts.createProgram([join(root, "src", "index.ts")], options);
  const checker = program.getTypeChecker();
  const resolved = (symbol: ts.Symbol) =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
  const index = program.getSourceFile(join(root, "src", "index.ts")) as ts.SourceFile;
  const exported = new Set(
    checker.getExportsOfModule(checker.getSymbolAtLocation(index) as ts.Symbol).map(resolved),
  );
  const found = new Set<string>();
  const look = (node: ts.Node, owner: string): void => {
    if (ts.isBlock(node) || ts.isPrivateIdentifier(node)) return; // what a function does is not its signature
    if (ts.isClassElement(node) && isHidden(node)) return;
    if (ts.isPropertyDeclaration(node) && node.type) {
      look(node.type, owner);
      return;
    }
    if (ts.isParameter(node)) {
      if (node.type) look(node.type, owner);
      return;
    }
    if (ts.isTypeReferenceNode(node) && node.typeName.getText() === "Omit") return; // stands for its own members
    if (ts.isTypeReferenceNode(node) || ts.isExpressionWithTypeArguments(node)) {
      const name = ts.isTypeReferenceNode(node) ? node.typeName : node.expression;
      const symbol = checker.getSymbolAtLocation(name);
      const target = symbol && resolved(symbol);
      const from = target?.declarations?.[0]?.getSourceFile().fileName ?? "";
      const ours =
        from.startsWith(join(root, "src")) && !(target && target.flags & ts.SymbolFlags.TypeParameter);
      const isHeritage = ts.isHeritageClause(node.parent);
      if (target && ours && !isHeritage && !exported.has(target)) {
        found.add(`${target.name} of ${relative(root, from)}, in ${owner}`);
      }
    }
    ts.forEachChild(node, (child) => look(child, owner));
  };
  for (const symbol of exported) {
    for (const declaration of symbol.declarations ?? []) {
      if (ts.isClassDeclaration(declaration))
        for (const member of declaration.members) look(member, symbol.name);
      else if (ts.isVariableDeclaration(declaration) || ts.isFunctionDeclaration(declaration))
        lookAtSignature(declaration, symbol.name);
      else look(declaration, symbol.name);
    }
  }
  function lookAtSignature(declaration: ts.Node, owner: string): void {
    ts.forEachChild(declaration, (child) => look(child, owner));
  }
  return [...found].sort();
}

function isHidden(member: ts.ClassElement): boolean {
  if (member.name && ts.isPrivateIdentifier(member.name)) return true;
  if (ts.isClassStaticBlockDeclaration(member)) return true;
  return (
    (ts.getCombinedModifierFlags(member) & (ts.ModifierFlags.Private | ts.ModifierFlags.Protected)) !== 0
  );
}

test("every type that a public signature needs is exported", () => {
  expect(missing()).toEqual([]);
});

// The rest is checked by `npm run typecheck`: a line that compiles where an error is expected is one.
declare const Auto: typeof AutoModelForCausalLM;
declare const model: CausalLM;
declare const trainer: Trainer;

export const mistakes = [
  // @ts-expect-error: the tiers are gpu, cpu and disk
  (): PretrainedOptions => ({ max_memory: { ram: "4GiB" } }),
  // @ts-expect-error: weights are not quantized by a name
  (): PretrainedOptions => ({ dtype: "int4" }),
  // @ts-expect-error: no such type for keys and values
  (): PretrainedOptions => ({ kv_dtype: "bfloat16" }),
  // @ts-expect-error: an option that does not exist
  (): PretrainedOptions => ({ max_memmory: { cpu: "4GiB" } }),
  // @ts-expect-error: what training sets on its own
  (): PretrainedOptions => ({ training: undefined }),
  // @ts-expect-error: a merge holds weights as floats
  (): MergeOptions => ({ dtype: "int8" }),
  // @ts-expect-error: text goes to stream, or through the tokenizer
  () => model.forward({ input_ids: "hello" }),
  // @ts-expect-error: what runs a model is the package's own
  () => model.engine,
  // @ts-expect-error: what a trainer is made of is its own
  () => trainer.session,
  // @ts-expect-error: a folder is needed
  () => Auto.from_pretrained(),
];

export const uses: readonly (() => PretrainedOptions)[] = [
  () => ({ max_memory: { cpu: "4GiB", gpu: 8e9, disk: "40GiB" }, dtype: "bfloat16", kv_dtype: "float32" }),
  () => ({ max_memory: { 0: "8GiB", cpu: "4GiB" }, device_map: { "": "cpu" }, dtype: "auto" }),
  () => ({ max_memory: { "cuda:0": "8GiB" }, dtype: "torch.float16", device_map: "auto" }),
];

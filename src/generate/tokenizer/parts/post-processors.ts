// What is put around the ids of a text: one function for each post-processor of tokenizer.json. Single texts only.
import { Fields, FormatError, isId } from "../fields.ts";

/** Takes the ids of a text and returns those with special tokens. */
export type PostProcess = (ids: number[]) => number[];

const KINDS: Readonly<Record<string, (fields: Fields) => PostProcess>> = {
  TemplateProcessing: template,
  ByteLevel: () => (ids) => ids,
  BertProcessing: around,
  RobertaProcessing: around,
  Sequence: (fields) => {
    const parts = fields.objects("processors").map(readPostProcessor);
    return (ids) => parts.reduce((list, part) => part(list), ids);
  },
};

export function readPostProcessor(fields: Fields): PostProcess {
  const kind = fields.text("type");
  const make = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
  if (make === undefined)
    return fields.fail("type", `one of the post-processors ${Object.keys(KINDS).join(", ")}`);
  return make(fields);
}

/** "cls" before and "sep" after, each [token, id]. */
function around(fields: Fields): PostProcess {
  const idOf = (name: string) => {
    const value = fields.raw(name);
    const id: unknown = Array.isArray(value) ? value[1] : undefined;
    return isId(id) ? id : fields.fail(name, "a token and its id");
  };
  const before = idOf("cls");
  const after = idOf("sep");
  return (ids) => [before, ...ids, after];
}

/** Ids to put in the text's place, undefined for the text itself. */
function template(fields: Fields): PostProcess {
  const tokens = fields.raw("special_tokens") === undefined ? undefined : fields.object("special_tokens");
  const parts = fields.list("single").map((piece, i) => {
    const key = `${fields.key("single")}[${i}]`;
    const { token, sequence } = readPiece(piece, key);
    if (sequence === "A") return undefined;
    if (sequence !== undefined)
      throw new FormatError(key, `names the sequence ${sequence}, and a single text is only A`);
    if (tokens?.raw(token!) === undefined)
      throw new FormatError(
        key,
        `names the token ${JSON.stringify(token!.slice(0, 60))}, which special_tokens does not have`,
      );
    const entry = tokens.object(token!);
    return entry.list("ids").map((id) => (isId(id) ? id : entry.fail("ids", "a list of token ids")));
  });
  return (ids) => {
    const result: number[] = [];
    for (const part of parts) for (const id of part ?? ids) result.push(id);
    return result;
  };
}

/** { "SpecialToken": { id } }, { "Sequence": { id } }, or "$A", "$0", "[CLS]:1" as a text. */
function readPiece(piece: unknown, key: string): { token?: string; sequence?: string } {
  if (typeof piece === "string") {
    const [id = ""] = piece.split(":");
    if (!id.startsWith("$")) return { token: id };
    return { sequence: /^\$[bB]$/.test(id) ? "B" : "A" };
  }
  const fields = new Fields(piece, key);
  if (fields.raw("Sequence") !== undefined) return { sequence: fields.object("Sequence").text("id") };
  return { token: fields.object("SpecialToken").text("id") };
}

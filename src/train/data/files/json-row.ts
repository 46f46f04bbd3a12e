// The bytes of one JSON object as a row. Where the bytes are is for the files' readers.
import { JsonSyntaxError, parseJson } from "../../../base/json.ts";
import { parseRow, ROW_COLUMNS, type Row, RowProblem } from "../row.ts";

/** Names of unused columns that are kept. */
const MOST_UNUSED = 16;
const USED: ReadonlySet<string> = new Set(ROW_COLUMNS);

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The row in the bytes of a JSON object. Adds the columns that nothing uses to `unused`. */
export function parseJsonRow(bytes: Uint8Array, unused?: Set<string>): Row | RowProblem {
  let text: string;
  try {
    text = decoder.decode(bytes);
  } catch {
    const wide = bytes[0] === 0xff || bytes[0] === 0xfe ? ": it looks like UTF-16, convert the file" : "";
    return new RowProblem(`is not UTF-8 text${wide}`);
  }
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    if (text.startsWith("["))
      return new RowProblem("begins a JSON array: write one object a line, without [ and commas");
    const reason = error instanceof JsonSyntaxError ? error.message : String(error);
    return new RowProblem(`is not JSON (${reason})`);
  }
  const row = parseRow(value);
  if (unused && !(row instanceof RowProblem)) {
    for (const column in value as Record<string, unknown>)
      if (!USED.has(column) && unused.size < MOST_UNUSED) unused.add(column);
  }
  return row;
}

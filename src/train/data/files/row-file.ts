// What one file of a dataset is to the rest: a number of rows, read by number. The formats are in jsonl.ts and parquet.ts.
import type { Row, RowProblem } from "../row.ts";
import type { UnchangedFile } from "./unchanged.ts";

/** Rows that are read together at the cost of one. */
export interface RowGroup {
  readonly rows: number;
  /** In memory, about. */
  readonly bytes: number;
}

/** One file of a dataset. */
export interface RowFile {
  readonly path: string;
  /** Asked as rows are read. */
  readonly unchanged: UnchangedFile;
  readonly rows: number;
  /** Of the file. */
  readonly bytes: number;
  /** In the order of the rows; undefined where any row costs as much as any other. */
  readonly groups: readonly RowGroup[] | undefined;
  /** Columns that nothing uses, of the rows that have been read. */
  readonly unused: ReadonlySet<string>;
  read(row: number): Promise<Row | RowProblem>;
  /** File and line, or file and row, for messages. */
  locate(row: number): Promise<string>;
  close(): Promise<void>;
}

/** Number of the first row of each part when all are numbered through, and the rows of all. */
export function numbered(parts: readonly { readonly rows: number }[]): { starts: number[]; rows: number } {
  const starts: number[] = [];
  let rows = 0;
  for (const part of parts) {
    starts.push(rows);
    rows += part.rows;
  }
  return { starts, rows };
}

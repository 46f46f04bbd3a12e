// The face of data/: open the rows of a dataset, get batches of tokens.

export type { Batch, MicroBatch } from "./batch.ts";
export { checkRows, type RowFacts } from "./check.ts";
export type { Cursor } from "./cursor.ts";
export { RowEncoder, type RowTokenizer } from "./encode.ts";
export { type Example, IGNORE_INDEX } from "./example.ts";
export { DataLoader, type DataLoaderOptions } from "./loader.ts";
export { type Membership, validationSplit } from "./order.ts";
export { type PackOptions, type Sequence, SequencePacker } from "./pack.ts";
export type { Row } from "./row.ts";
export { type OpenRowsOptions, openDataRows, type RowSource } from "./source.ts";

// Ways to damage a checkpoint that a test has a copy of.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { safetensorsBytes } from "../../src/formats/testing.ts";

/** A safetensors header: entries by tensor name. */
export type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** Changes config.json. */
export function editConfig(dir: string, change: Record<string, unknown>): void {
  const path = join(dir, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify({ ...config, ...change }));
}

/** Changes the header of model.safetensors, and appends `more` bytes of zeros to the data. */
export function editHeader(dir: string, edit: (header: Header, end: number) => void, more = 0): void {
  const path = join(dir, "model.safetensors");
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, start).toString()) as Header;
  const data = bytes.subarray(start);
  edit(header, data.length);
  writeFileSync(path, safetensorsBytes(header, Buffer.concat([data, Buffer.alloc(more)])));
}

/** Puts `spaces` behind the header, which moves all tensors by as many bytes. */
export function moveTensors(dir: string, spaces: number): void {
  const path = join(dir, "model.safetensors");
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = bytes.subarray(8, start).toString() + " ".repeat(spaces);
  writeFileSync(path, safetensorsBytes(header, bytes.subarray(start)));
}

const ELEMENT: Readonly<Record<string, number>> = { F32: 4, BF16: 2, BOOL: 1, F8_E4M3: 1, I64: 8 };

/** Adds a tensor of zeros to model.safetensors. `dtype` is a name of the format's. */
export function addTensor(dir: string, name: string, dtype: string, shape: readonly number[]): void {
  const bytes = shape.reduce((a, b) => a * b, ELEMENT[dtype] as number);
  const add = (header: Header, end: number) => {
    header[name] = { dtype, shape: [...shape], data_offsets: [end, end + bytes] };
  };
  editHeader(dir, add, bytes);
}

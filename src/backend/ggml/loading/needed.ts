// What a library on Linux asks the system to load along with it, and loading that first, from places that are safe.
// Published builds of the tensor library have an empty element in their search path, which the system's loader takes for
// the working directory: a libvulkan.so.1 in a model's folder would be run. What is loaded already is not searched for.
import { closeSync, existsSync, openSync, readSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import { ffi } from "./ffi.ts";
import { whyUntrusted } from "./trust.ts";

/** Needed libraries and search path of an ELF file, as written there. */
export interface Needs {
  readonly needed: readonly string[];
  /** Elements of DT_RUNPATH, or of DT_RPATH where there is none. */
  readonly path: readonly string[];
}

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const DT = { needed: 1n, strtab: 5n, rpath: 15n, runpath: 29n } as const;
/** The longest dynamic section and the longest name or path believed. Bytes. */
const MOST_DYNAMIC = 65_536;
const MOST_TEXT = 4096;

/** Reads a 64-bit little-endian ELF file's needs; undefined for any other file (the loader says what is wrong with it). */
export function readNeeds(file: string): Needs | undefined {
  const descriptor = openSync(file, "r");
  try {
    const read = (offset: number, bytes: number) => {
      const buffer = Buffer.alloc(bytes);
      return buffer.subarray(0, readSync(descriptor, buffer, 0, bytes, offset));
    };
    return parse(read);
  } catch (error) {
    if (error instanceof RangeError) return undefined; // cut short
    throw error;
  } finally {
    closeSync(descriptor);
  }
}

function parse(read: (offset: number, bytes: number) => Buffer): Needs | undefined {
  const header = read(0, 64);
  if (header.length < 64 || header.readUInt32BE(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1) {
    return undefined;
  }
  const [entry, count] = [header.readUInt16LE(54), header.readUInt16LE(56)];
  const table = read(Number(header.readBigUInt64LE(32)), entry * count);
  const segments = Array.from({ length: count }, (_, i) => ({
    type: table.readUInt32LE(i * entry),
    offset: Number(table.readBigUInt64LE(i * entry + 8)),
    address: Number(table.readBigUInt64LE(i * entry + 16)),
    bytes: Number(table.readBigUInt64LE(i * entry + 32)),
  }));
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  if (!dynamic) return undefined;
  const section = read(dynamic.offset, Math.min(dynamic.bytes, MOST_DYNAMIC));
  const tags: { tag: bigint; value: number }[] = [];
  for (let at = 0; at + 16 <= section.length; at += 16) {
    const tag = section.readBigInt64LE(at);
    if (tag === 0n) break;
    tags.push({ tag, value: Number(section.readBigUInt64LE(at + 8)) });
  }
  const strings = tags.find(({ tag }) => tag === DT.strtab)?.value ?? 0;
  const loaded = segments.find(
    ({ type, address, bytes }) => type === PT_LOAD && strings >= address && strings < address + bytes,
  );
  if (!loaded) return undefined;
  const text = (value: number) => {
    const bytes = read(strings - loaded.address + loaded.offset + value, MOST_TEXT);
    return bytes.toString("utf8", 0, Math.max(0, bytes.indexOf(0)));
  };
  const all = (wanted: bigint) => tags.filter(({ tag }) => tag === wanted).map(({ value }) => text(value));
  const paths = all(DT.runpath);
  return {
    needed: all(DT.needed),
    path: (paths.length > 0 ? paths : all(DT.rpath)).flatMap((p) => p.split(":")),
  };
}

/** Libraries that were loaded first, by name or file. */
const loaded = new Set<string>();

/**
 * Loads what `file` needs from the folder it is in, from absolute folders it names that can be trusted, or from the system's
 * own: never from the working directory. Returns why `file` must not be loaded, or undefined.
 */
export function loadNeeds(file: string): string | undefined {
  if (process.platform !== "linux") return undefined; // elsewhere libraries are not searched for in the working directory
  const needs = readNeeds(file);
  if (!needs?.path.some((element) => !isAbsolute(element) && !/^\$(ORIGIN|\{ORIGIN\})(\/|$)/.test(element))) {
    return undefined;
  }
  for (const name of needs.needed) {
    const problem = loadFirst(name, dirname(file), needs.path);
    if (problem) return problem;
  }
  return undefined;
}

function loadFirst(name: string, folder: string, path: readonly string[]): string | undefined {
  if (name.includes("/") && !isAbsolute(name)) return `it needs ${name}, relative to the working directory`;
  const folders = [folder, ...path.filter((element) => isAbsolute(element))];
  const file = folders
    .map((dir) => join(dir, name))
    .find((candidate) => existsSync(candidate) && !whyUntrusted(candidate));
  const wanted = file ?? name;
  if (loaded.has(wanted)) return undefined;
  const problem = file ? loadNeeds(file) : undefined;
  if (problem) return problem;
  try {
    ffi().load(wanted);
  } catch {
    return `it needs ${name}, which this system does not have`;
  }
  loaded.add(wanted);
  return undefined;
}

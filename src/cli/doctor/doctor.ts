// spillway doctor: whether this machine can run models, with what, and what would have to be installed for more.
import type { Command } from "commander";
import { LibraryError } from "../../base/errors.ts";
import { formatBytes, formatRate } from "../../memory/sizes.ts";
import { tableLines } from "../../report/table.ts";
import { ToldInJson } from "../exit-codes.ts";
import { shortPath } from "../installation.ts";
import { type Io, styled, writeJson, writeLines } from "../io.ts";
import { examine, type Findings } from "./examination.ts";

/** Vulkan devices that are programs: slow, and good for trying the GPU path out. */
const SOFTWARE = /llvmpipe|lavapipe|swiftshader/i;

interface DoctorFlags {
  readonly disk: boolean;
  readonly json?: boolean;
}

export function addDoctor(program: Command, io: Io): void {
  program
    .command("doctor")
    .description("say what this machine can run, and what is missing")
    .argument(
      "[folder]",
      "measure the disk of this folder, by a file of at most 256 MiB that is removed",
      ".",
    )
    .option("--no-disk", "do not measure a disk")
    .option("--json", "one JSON document on stdout")
    .action(async (folder: string, flags: DoctorFlags) => {
      const findings = await examine(flags.disk ? folder : undefined, io.signal);
      const needed = findings.missing.find((m) => m.needed);
      if (flags.json) await writeJson(io, { ok: !needed, ...findings });
      else await writeLines(io, lines(io, findings));
      if (needed) {
        const error = new LibraryError(`this machine cannot run models yet: ${needed.what}; ${needed.do}`);
        throw new ToldInJson(error.message, { cause: error });
      }
    });
}

function lines(io: Io, f: Findings): string[] {
  const { library, memory, pool, disk } = f;
  const rows: string[][] = [["spillway", `${f.spillway} on ${f.platform}, Node ${f.node}`]];
  if (library) {
    rows.push(["tensor library", `ggml ${library.version} (${library.commit})`]);
    for (const { dir, source } of library.folders) rows.push(["", `${source}: ${shortPath(dir)}`]);
    for (const reason of library.refused) rows.push(["", reason]);
    rows.push(["CPU backend", shortPath(library.cpu_backend)]);
  } else rows.push(["tensor library", styled(io.stdout, "red", "missing")]);
  for (const [i, d] of f.devices.entries()) {
    const amount =
      d.memory_total > 0 ? `, ${formatBytes(d.memory_free)} of ${formatBytes(d.memory_total)} free` : "";
    rows.push([
      i === 0 ? "devices" : "",
      `${d.name}: ${d.description}${amount}${SOFTWARE.test(d.description) ? "; computes on the CPU" : ""}`,
    ]);
  }
  const limit = memory.limit
    ? `limited to ${formatBytes(memory.limit.bytes)} by ${memory.limit.source}, ${formatBytes(memory.limit.used)} in use`
    : "not limited by a control group";
  rows.push(
    ["threads", `${f.threads}`],
    ["wide products", productsLine(f.products)],
    ["memory", `${formatBytes(memory.available)} of ${formatBytes(memory.total)} available, ${limit}`],
    ["", `without --cpu Spillway takes at most ${formatBytes(memory.default_budget)}`],
    [
      "libuv pool",
      `${pool.threads} threads: ${pool.reads_in_flight} ${pool.reads_in_flight === 1 ? "read" : "reads"} in flight beside compute`,
    ],
    ["", "UV_THREADPOOL_SIZE, set before the start, changes it; a fast disk may want 8"],
    ["disk", diskLine(disk)],
  );
  const text = tableLines(rows, ["left", "left"]);
  if (f.missing.length > 0) {
    text.push("", "missing");
    for (const m of f.missing) text.push(`  ${m.what}`, `    -> ${m.do}`);
  }
  const verdict = library
    ? styled(io.stdout, "green", "This machine can run models.")
    : styled(io.stdout, "red", "This machine cannot run models yet.");
  return [...text, "", verdict];
}

function productsLine(products: Findings["products"]): string {
  if (!products) return "by the tensor library";
  const { name, file, mode, from_columns } = products;
  const where = `${name}: ${shortPath(file)}`;
  if (mode !== "auto") return `${where}; SPILLWAY_DNNL=${mode}`;
  const measured = Object.entries(from_columns).map(([type, columns]) =>
    columns === null ? `${type} never` : `${type} from ${columns} columns`,
  );
  return `${where}; ${measured.length > 0 ? measured.join(", ") : "measured when a model first needs it"}`;
}

function diskLine({ path, bytes_per_second, direct, problem }: Findings["disk"]): string {
  const where = shortPath(path);
  if (bytes_per_second === null) return `${where}: not measured (${problem})`;
  const how = direct ? "direct reads" : "through the page cache, which may flatter it";
  return `${where}: ${formatRate(bytes_per_second)}, ${how}`;
}

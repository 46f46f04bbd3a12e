#!/usr/bin/env node
// The executable: this process's streams and signals around the program. Everything else is in program.ts.
import { processIo } from "./io.ts";
import { main } from "./program.ts";

const io = processIo();
try {
  process.exitCode = await main(process.argv.slice(2), io);
} finally {
  io.close();
}

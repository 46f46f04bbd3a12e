// A program that saves until it is killed: node testing-crash.ts <folder> <first>. Save number c is of step c / 2, so that
// every other one replaces the one before. Says "begun c" and "saved c" on stdout. Run by crash.test.ts.
import { writeSync } from "node:fs";
import { cpuMemory } from "../../backend/ggml/device.ts";
import { Ledger } from "../../memory/ledger.ts";
import { CpuStore } from "../../memory/stores/native.ts";
import { saveCheckpoint } from "./save.ts";
import { CRASH_SPECS, fill, stateIn } from "./testing-state.ts";

const [dir = "", first = "0"] = process.argv.slice(2);
const ledger = new Ledger();
const memory = cpuMemory();
const tensors = await stateIn(new CpuStore({ memory, ledger }), { specs: CRASH_SPECS });
for (let count = Number(first); ; count++) {
  await fill(tensors, count);
  const state = { step: Math.floor(count / 2), meta: { content: count }, tensors };
  const beforeWrite = () => void writeSync(1, `begun ${count}\n`);
  await saveCheckpoint(dir, state, { ledger, memory, keep: 2, beforeWrite });
  writeSync(1, `saved ${count}\n`);
}

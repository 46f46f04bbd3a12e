// Takes what a computing device needs beside the weights that stay: inputs, scratch memory, and the rings of what streams.
import type { Device } from "../../backend/ggml/device.ts";
import { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import { type Cleanup, runAllNow, undoNowAfter } from "../../base/async/cleanup.ts";
import type { ReadQueue } from "../../memory/io/read-queue.ts";
import type { Ledger, Reservation } from "../../memory/ledger.ts";
import { HOST, type Site } from "../../plan/plan.ts";
import type { Unit } from "../../plan/units.ts";
import { PassInputs } from "../step/inputs.ts";
import { reserveScratch } from "../step/measure.ts";
import type { Side } from "../step/side.ts";
import type { Residents } from "../weights/residents.ts";
import type { SourceFiles } from "../weights/sources.ts";
import { UnitStreamer } from "../weights/streamer.ts";
import { ModelWeights } from "../weights/weight-source.ts";
import type { Prepared } from "./prepared.ts";

interface SideParts {
  readonly prepared: Prepared;
  /** The model's units, those on disk reading from a copy where there is one. */
  readonly units: readonly Unit[];
  readonly ledger: Ledger;
  readonly residents: Residents;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
}

/** Enters each part in `cleanup` as it is made. Throws BudgetError, LibraryError. */
export function openSide(site: Site, parts: SideParts, cleanup: Cleanup): Side {
  const { prepared, units, ledger, residents, sources, queue } = parts;
  const { plan, spec, cpu } = prepared;
  const { host } = plan;
  const beside = site === HOST && host;
  const device = beside ? cpu : prepared.device;
  const { activations, scratch, products = 0 } = beside ? host : plan.fixed;
  const { ring, wholeStages } = beside ? host : plan;
  const inputs = new PassInputs(device, ledger, spec.hidden_size, spec.windows);
  cleanup.add(() => inputs.dispose());
  inputs.reserve(activations);
  if (products > 0) {
    const entry = ledger.reserve(device.kind, products, "wide products");
    cleanup.add(() => entry.release());
  }
  const memory = graphMemory(device, scratch, ledger);
  cleanup.add(memory.release);
  const streams = (unit: Unit) =>
    plan.computeOf[unit.stageIndex] === site &&
    !unit.rowsOnly &&
    (plan.homes[unit.index] !== device.kind || plan.packed.has(unit.index));
  const cycle = units.filter(streams);
  let streamer: UnitStreamer | undefined;
  if (cycle.length > 0) {
    const rings = { ring, staging: beside ? 0 : plan.staging, unpacking: beside ? 0 : plan.unpacking };
    const made = new UnitStreamer({ device, cycle, residents, sources, queue, ledger, ...rings });
    cleanup.add(() => made.dispose());
    streamer = made;
  }
  const weights = new ModelWeights({ device, residents, streamer, streamed: new Set(cycle) });
  const flash = beside ? prepared.hostFlash : prepared.flash;
  return { device, weights, streamer, wholeStages, inputs, graphs: memory.graphs, flash };
}

/** Scratch memory of graphs, entered in the ledger at the planned size at once. */
function graphMemory(
  device: Device,
  bytes: number,
  ledger: Ledger,
): { graphs: GraphMemory; release: () => void } {
  let entry: Reservation | undefined = ledger.reserve(device.kind, bytes, "graph scratch");
  const graphs = new GraphMemory(device.memory, (needed) => {
    if (entry && needed > entry.bytes) entry.resize(needed);
  });
  const release = () => {
    const entered = entry;
    entry = undefined;
    runAllNow([() => graphs.dispose(), () => entered?.release()]);
  };
  try {
    reserveScratch(device, bytes, graphs);
  } catch (error) {
    undoNowAfter(error, [release]);
  }
  return { graphs, release };
}

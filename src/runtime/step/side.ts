// A device that computes stages, with what it needs for that. One where one device computes all; a GPU and the CPU beside it
// where they divide the model.
import type { Device } from "../../backend/ggml/device.ts";
import type { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import type { UnitStreamer } from "../weights/streamer.ts";
import type { ModelWeights } from "../weights/weight-source.ts";
import type { PassInputs } from "./inputs.ts";

export interface Side {
  readonly device: Device;
  readonly weights: ModelWeights;
  /** Brings the units that do not stay where this device computes them; undefined where all do. */
  readonly streamer: UnitStreamer | undefined;
  /** See `Plan.wholeStages`. */
  readonly wholeStages: boolean;
  readonly inputs: PassInputs;
  /** Scratch memory of its graphs. */
  readonly graphs: GraphMemory;
  /** Whether the device has the fused attention kernel for this model. */
  readonly flash: boolean;
}

// Measures a disk the way weights are read from it: into the tensor library's memory, with the streamer's depth.
import { cpuMemory } from "../backend/ggml/device.ts";
import { type Bandwidth, measureReadBandwidth } from "../memory/io/disk-bandwidth.ts";

/** Read bandwidth of the disk under files (the largest is read) or a folder (a file is written there and removed). */
export function diskSpeed(paths: string | readonly string[], signal: AbortSignal): Promise<Bandwidth> {
  const memory = cpuMemory();
  return measureReadBandwidth(paths, {
    signal,
    allocate: (bytes) => {
      const buffer = memory.allocate(bytes);
      return { buffer: buffer.view(0, bytes), free: () => buffer.dispose() };
    },
  });
}

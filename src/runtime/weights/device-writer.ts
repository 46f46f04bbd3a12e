// Fills memory of a computing device with what is made on the host: in place where that is host memory, else piece by piece
// through a small buffer. So nothing is ever held twice, and other work of the event loop gets its turn.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { uploadNow } from "../../backend/ggml/transfer.ts";

/** Bytes made at a time, unless one row has more: a few milliseconds of work. */
const PIECE = 4 * 2 ** 20;

/** Writes rows `first` to `first + count` into `into`, whose bytes are undefined before. */
export type FillRows = (into: Uint8Array, first: number, count: number) => void | Promise<void>;

export class DeviceWriter {
  readonly #device: Device;
  readonly #headers = new HeaderArena(4);

  constructor(device: Device) {
    this.#device = device;
  }

  /** Copies values to byte `offset` of a buffer. */
  write(buffer: NativeBuffer, offset: number, values: ArrayBufferView): void {
    if (values.byteLength === 0) return;
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    if (this.#device.onHost) {
      buffer.bytes(offset, bytes.length).set(bytes);
      return;
    }
    this.#headers.reset();
    uploadNow(this.#headers.bind(buffer, offset, "i8", [bytes.length]), bytes);
  }

  /** Has `rows` rows of `rowBytes` bytes made, from byte `offset` of a buffer on. */
  async fill(
    buffer: NativeBuffer,
    offset: number,
    { rows, rowBytes }: { rows: number; rowBytes: number },
    make: FillRows,
  ): Promise<void> {
    const most = Math.max(1, Math.floor(PIECE / rowBytes));
    const inPlace = this.#device.onHost;
    const scratch = inPlace ? undefined : new Uint8Array(Math.min(most, rows) * rowBytes);
    for (let first = 0; first < rows; first += most) {
      if (first > 0) await new Promise((resolve) => setImmediate(resolve));
      const count = Math.min(most, rows - first);
      const at = offset + first * rowBytes;
      const into = scratch?.subarray(0, count * rowBytes) ?? buffer.bytes(at, count * rowBytes);
      await make(into, first, count);
      if (scratch) this.write(buffer, at, into);
    }
  }

  dispose(): void {
    this.#headers.dispose();
  }
}

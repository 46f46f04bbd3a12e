// Counts the bytes of a load for whoever watches it.
import { Listener } from "../../base/async/listener.ts";
import type { LoadProgress } from "./loader.ts";

export class Progress {
  readonly #listener: Listener<[LoadProgress]>;
  #loaded = 0;
  #total = 0;
  constructor(callback: ((progress: LoadProgress) => void) | undefined) {
    this.#listener = new Listener(callback);
  }
  begin(total: number): void {
    this.#loaded = 0;
    this.#total = total;
  }
  add(name: string, bytes: number): void {
    this.#loaded = Math.min(this.#total, this.#loaded + bytes);
    this.#listener.tell({ status: "progress", name, loaded: this.#loaded, total: this.#total });
  }
  /** Waits for promises of the callback. */
  end(): Promise<void> {
    this.#listener.tell({ status: "done", name: "", loaded: this.#total, total: this.#total });
    return this.#listener.settled();
  }
}

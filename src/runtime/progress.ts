// Counts the bytes of a load for whoever watches it.
import type { LoadProgress } from "./loader.ts";

export class Progress {
  readonly #callback: ((progress: LoadProgress) => void) | undefined;
  #loaded = 0;
  #total = 0;
  constructor(callback: ((progress: LoadProgress) => void) | undefined) {
    this.#callback = callback;
  }
  begin(total: number): void {
    this.#loaded = 0;
    this.#total = total;
  }
  add(name: string, bytes: number): void {
    this.#loaded = Math.min(this.#total, this.#loaded + bytes);
    this.#callback?.({ status: "progress", name, loaded: this.#loaded, total: this.#total });
  }
  end(): void {
    this.#callback?.({ status: "done", name: "", loaded: this.#total, total: this.#total });
  }
}

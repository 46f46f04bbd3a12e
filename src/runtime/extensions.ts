// What works on the weights of an open model beside the engine, such as training: attached to it, and its undo.
import { runAll } from "../base/async/cleanup.ts";
import type { AdapterSource } from "./step/executor.ts";

export interface EngineExtension {
  /** Awaited before the weights are used for anything but the extension's own work: changes of them may be under way. */
  readonly settle?: (() => Promise<void>) | undefined;
  /** Awaited before the weights are given up: what was taken beside them, and still works on them, goes first. */
  readonly beforeDispose?: (() => Promise<void>) | undefined;
  /** What linear layers add to their products while it is attached, in place of what they added before. */
  readonly adapter?: AdapterSource | undefined;
}

/** Extensions in the order in which they were attached. */
export class Extensions {
  readonly #attached: EngineExtension[] = [];

  /** Until the result is disposed, which may happen twice and in any order. */
  attach(extension: EngineExtension): Disposable {
    this.#attached.push(extension);
    return {
      [Symbol.dispose]: () => {
        const at = this.#attached.indexOf(extension);
        if (at >= 0) this.#attached.splice(at, 1);
      },
    };
  }

  /** Of the one that was attached last and has one. */
  get adapter(): AdapterSource | undefined {
    return this.#attached.findLast((extension) => extension.adapter)?.adapter;
  }

  /** One after another: what fails is thrown at once, for the weights are not to be used then. */
  async settle(): Promise<void> {
    for (const extension of [...this.#attached]) await extension.settle?.();
  }

  /** The last one first; all are asked, then the first failure is thrown. */
  beforeDispose(): Promise<void> {
    return runAll(this.#attached.toReversed().map((extension) => () => extension.beforeDispose?.()));
  }
}

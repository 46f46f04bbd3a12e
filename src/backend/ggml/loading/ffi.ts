// koffi, the binding to C functions: found where this package resolves its dependencies, and loaded when it is first
// needed, so that everything which computes nothing works without it. Kept out of bundles: its native part cannot go in
// (which is also why createRequire is not imported by name: webpack would evaluate it when it bundles).
import Module from "node:module";
import { fileURLToPath } from "node:url";
import type Koffi from "koffi";
import { LibraryError } from "../../../base/errors.ts";
import { OWN_PLACE } from "../../../base/own-place.ts";

/** The exact version this package was made for. */
export const KOFFI_VERSION = "3.3.4";

let koffi: typeof Koffi | undefined;

/** The binding. Throws {@link LibraryError} with what to install where it is missing or has no build for this platform. */
export function ffi(): typeof Koffi {
  koffi ??= load();
  return koffi;
}

/** The file of koffi, for threads that load it on their own. */
export function ffiFile(): string {
  return Module.createRequire(OWN_PLACE).resolve("koffi");
}

function load(): typeof Koffi {
  try {
    return Module.createRequire(OWN_PLACE)("koffi") as typeof Koffi;
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}`;
    const why = (cause instanceof Error ? cause.message : String(cause)).split("\n")[0];
    throw new LibraryError(
      `koffi, which calls the tensor library, could not be loaded for ${platform} from ${fileURLToPath(OWN_PLACE)} (${why}); ` +
        `try: npm install koffi@${KOFFI_VERSION} @koromix/koffi-${platform}@${KOFFI_VERSION}`,
      { cause },
    );
  }
}

// Where this code lies: what is resolved from there belongs to the installation, never to the working directory.
import { pathToFileURL } from "node:url";

/** URL of the file that holds this code: a module of the package, or the bundle it was put into (ESM or CommonJS). */
export const OWN_PLACE: string =
  // A bundle in CommonJS has no import.meta.url, but a file name.
  import.meta.url ?? pathToFileURL(typeof __filename === "string" ? __filename : process.execPath).href;

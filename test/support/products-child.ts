// A process with a crew of wide products that nobody ends: node products-child.mjs <when>. "idle": it has computed and
// nothing is left to do; "starting", "computing": it exits in the middle of that. Bundled and run by products-exit.test.ts.
import { writeSync } from "node:fs";
import { Device, findDevice } from "../../src/backend/ggml/device.ts";
import { HeaderArena } from "../../src/backend/ggml/graph.ts";
import { GraphMemory } from "../../src/backend/ggml/graph-memory.ts";
import { Graph } from "../../src/backend/ggml/ops.ts";
import { openProducts } from "../../src/backend/products/open.ts";

const [when] = process.argv.slice(2);
process.env.SPILLWAY_DNNL = "all";
const device = Device.open(findDevice("cpu"), { threads: 2 });
const opened = openProducts(device, []);
if (when === "starting") process.exit(0);
await opened;
const g = new Graph(device, new HeaderArena(16, { graph: true }), { wide: true });
g.output(g.mulMat(g.input("f32", [512, 2048]), g.input("f32", [512, 512])));
new GraphMemory(device.memory, () => {}).place(g.handle);
const computed = device.compute(g);
if (when === "computing") setImmediate(() => process.exit(0));
await computed;
writeSync(1, "computed\n");

import { defineConfig } from "tsdown";
import { workerText } from "./scripts/worker-text.ts";

export default defineConfig({
  entry: { index: "src/index.ts", cli: "src/cli/main.ts", synthetic: "src/checkpoint/synthetic.ts" },
  format: "esm",
  platform: "node",
  target: "node20",
  dts: { entry: "src/index.ts" },
  fixedExtension: false,
  clean: true,
  sourcemap: false,
  plugins: [workerText()],
});

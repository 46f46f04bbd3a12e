import { defineConfig } from "vitest/config";
import { workerText } from "./scripts/worker-text.ts";

export default defineConfig({
  plugins: [workerText()],
  test: {
    include: ["src/**/*.test.ts", "test/**/*.test.ts", "bench/**/*.test.mjs", "examples/**/*.test.mjs"],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});

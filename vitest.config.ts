import { defineConfig } from "vitest/config";
import { workerText } from "./scripts/worker-text.ts";
import { UnprovenReporter } from "./test/support/unproven.ts";

export default defineConfig({
  plugins: [workerText()],
  test: {
    include: [
      "src/**/*.test.ts",
      "test/**/*.test.ts",
      "bench/**/*.test.mjs",
      "examples/**/*.test.mjs",
      "scripts/**/*.test.mjs",
    ],
    reporters: ["default", new UnprovenReporter()],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});

import { expect, test } from "vitest";
import { Engine } from "../src/runtime/engine.ts";
import { largestDifference, REFERENCES, readGolden } from "./golden/golden.ts";

for (const name of REFERENCES)
  for (const map of ["cpu", "disk"] as const)
    test(`${name} ${map}`, async () => {
      const { dir, prompts } = await readGolden(name);
      const engine = await Engine.open(dir, {
        device: "cpu",
        kv_dtype: "float32",
        device_map: map,
        threads: 2,
      });
      try {
        for (const p of prompts) {
          const rows: Float32Array[] = [];
          await engine.run([{ base: 0, past: 0, tokens: p.ids }], "all", (i, l) => {
            rows[i] = l;
          });
          const vocab = rows[0]!.length;
          const all = new Float32Array(rows.length * vocab);
          rows.forEach((r, i) => all.set(r, i * vocab));
          const d = largestDifference(all, p.logits);
          console.log(
            name,
            map,
            p.ids.length,
            d,
            engine.prepared.plan.ring,
            JSON.stringify(engine.statistics()),
          );
          expect(d).toBeLessThan(2e-4);
        }
      } finally {
        await engine.dispose();
      }
    });

// Headers and the index of a checkpoint, and models of odd sizes.
import { copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkpointOf, shapesOf } from "../models.mjs";
import { mutateJson, mutateText, stringify } from "../mutate.mjs";
import { exercise, json, OPEN, Wrong, wrong } from "./judging.mjs";
import { headerProblem, mutateFile } from "./safetensors.mjs";

export function header({ S, project, dir }) {
  const base = join(project, "test/fixtures/checkpoints/llama");
  for (const f of ["config.json", "generation_config.json"]) copyFileSync(join(base, f), join(dir, f));
  const file = readFileSync(join(base, "model.safetensors"));
  return {
    make: (r) => {
      const [bytes, log] = mutateFile(r, file);
      return {
        log,
        run: async () => {
          writeFileSync(join(dir, "model.safetensors"), bytes);
          await exercise(S, dir);
          const problem = headerProblem(bytes);
          wrong(problem, `accepted though: ${problem} (${log})`);
        },
      };
    },
  };
}

export function index({ S, project, dir }) {
  const base = join(project, "test/fixtures/checkpoints/llama-tied-sharded");
  cpSync(base, dir, { recursive: true });
  const path = join(dir, "model.safetensors.index.json");
  const good = json(path);
  const shards = [...new Set(Object.values(good.weight_map))];
  return {
    make: (r) => {
      let text;
      let log;
      const kind = r.int(6);
      if (kind < 2) {
        const m = mutateJson(r, good, { focus: /weight_map\// });
        text = stringify(m.value);
        log = m.log.join("; ");
      } else if (kind === 2) {
        text = mutateText(r, JSON.stringify(good));
        log = "text";
      } else if (kind === 3) {
        const copy = structuredClone(good);
        const key = r.pick(Object.keys(copy.weight_map));
        copy.weight_map[key] = r.pick([
          "../../../../../../etc/passwd",
          "/etc/passwd",
          "./../x.safetensors",
          "..\\x",
          "C:\\x",
          "a/../../x",
          `a/../${shards[0]}`,
          `./${shards[0]}`,
          `${shards[0]}\u0000`,
          "",
          ".",
          "config.json",
          "/dev/zero",
          "/proc/self/mem",
          "model.safetensors.index.json",
          "//etc/passwd",
          "nul",
          shards[0].toUpperCase(),
          `${shards[0]}/`,
          shards.at(-1),
        ]);
        text = JSON.stringify(copy);
        log = `path ${copy.weight_map[key]}`;
      } else if (kind === 4) {
        const copy = structuredClone(good);
        for (let i = 0; i < r.pick([1, 3000, 100000]); i++) copy.weight_map[`x${i}`] = r.pick(shards);
        text = JSON.stringify(copy);
        log = "many";
      } else {
        const copy = structuredClone(good);
        const keys = Object.keys(copy.weight_map);
        const [a, b] = [r.pick(keys), r.pick(keys)];
        [copy.weight_map[a], copy.weight_map[b]] = [copy.weight_map[b], copy.weight_map[a]];
        text = JSON.stringify(copy);
        log = "swap";
      }
      return {
        log,
        run: async () => {
          writeFileSync(path, text);
          await exercise(S, dir);
          let parsed;
          try {
            parsed = JSON.parse(text);
          } catch {
            throw new Wrong("not JSON");
          }
          for (const [k, v] of Object.entries(good.weight_map))
            wrong(
              join(dir, String(parsed.weight_map?.[k])) !== join(dir, v),
              `${k} in ${String(parsed.weight_map?.[k]).slice(0, 50)}`,
            );
        },
      };
    },
  };
}

/** Models of odd sizes: what ggml would assert. */
export function shapes({ S, dir }) {
  return {
    make: (r, i) => {
      const made = shapesOf(r);
      return {
        log: JSON.stringify(made),
        run: async () => {
          const model = join(dir, `m${i % 4}`);
          rmSync(model, { recursive: true, force: true });
          mkdirSync(model, { recursive: true });
          checkpointOf(model, made, r);
          const m = await S.AutoModelForCausalLM.from_pretrained(model, {
            ...OPEN,
            device_map: r.pick(["auto", "disk", "cpu"]),
            kv_dtype: r.pick(["float16", "float32"]),
            dtype: r.pick(["auto", "auto", "float32", "float16", "bfloat16"]),
            offload_folder: join(dir, "off"),
            offload_packed: r.chance(0.3),
            ...(r.chance(0.3) && { max_memory: { cpu: `${r.pick([100, 200, 400, 1000])}KiB` } }),
          });
          try {
            const ids = Array.from({ length: r.pick([1, 2, 5, 16]) }, () => r.int(made.vocab));
            const { logits } = await m.forward({ input_ids: [ids] });
            wrong(!logits.data.every(Number.isFinite), "logits are not finite");
            await m.generate({ input_ids: [ids, ids.slice(0, 1)], max_new_tokens: 3 });
            if (r.chance(0.6)) {
              const trainer = await S.Trainer.create(m, {
                max_length: 16,
                micro_batch_size: 2,
                precision: r.pick(["float32", "bfloat16"]),
                optimizer: r.pick(["adamw", "sgd", "adam8bit"]),
                offload_folder: join(dir, "off"),
                offload: {
                  optimizer: r.pick(["disk", "cpu", "auto"]),
                  gradients: r.pick(["disk", "cpu"]),
                  activations: r.pick(["disk", "cpu"]),
                  weights: r.pick(["disk", "auto"]),
                },
                ...(r.chance(0.3) && { lora: { r: r.pick([1, 3, 8]), target_modules: "all-linear" } }),
              });
              try {
                await trainer.step({ input_ids: [ids, ids], labels: [ids, ids] });
                await trainer.step({ input_ids: [[...ids, 0]], labels: [[...ids, 0]] });
              } finally {
                await trainer.dispose();
              }
            }
          } finally {
            await m.dispose();
          }
        },
      };
    },
  };
}

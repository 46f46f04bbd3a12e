// config.json and generation_config.json.
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mutateJson, mutateText, ODD, stringify } from "../mutate.mjs";
import { BOOL, CONFIG, exercise, ID, IDS, isInt, json, judge, NUMBER, OPEN, POSITIVE } from "./judging.mjs";

export function config({ S, project, dir }) {
  const bases = ["llama", "gpt2", "qwen2", "llama-yarn", "llama3-rope"].map((name) => {
    const to = join(dir, name);
    cpSync(join(project, "test/fixtures/checkpoints", name), to, { recursive: true });
    const good = json(join(to, "config.json"));
    return { name, to, good, keys: Object.keys(good).filter((k) => CONFIG[k]) };
  });
  return {
    make: (r) => {
      const { name, to, good, keys } = r.pick(bases);
      let text;
      let log;
      const kind = r.int(8);
      if (kind === 0) {
        text = mutateText(r, JSON.stringify(good));
        log = "text";
      } else if (kind < 4) {
        const m = mutateJson(r, good, {
          focus: /_size|head|layer|rope|eps|theta|tie|model_type|position|token_id|dtype/,
        });
        text = stringify(m.value);
        log = m.log.join("; ");
      } else {
        const copy = structuredClone(good);
        const log_ = [];
        for (let i = 0; i < 1 + r.int(2); i++) {
          const key = r.pick(
            kind < 7
              ? keys
              : [
                  "head_dim",
                  "rope_scaling",
                  "rope_parameters",
                  "partial_rotary_factor",
                  "num_key_value_heads",
                  "text_config",
                  "quantization_config",
                  "sliding_window",
                  "tie_word_embeddings",
                  "attention_bias",
                  "mlp_bias",
                  "hidden_act",
                ],
          );
          const rope = {
            rope_type: r.pick(["yarn", "linear", "llama3", "default", "dynamic", "longrope", "su", ""]),
            factor: r.pick([0, -1, 1e308, 1e-308, 8, 4.5, "4", null]),
            original_max_position_embeddings: r.pick([0, 1, 64, 8192, 1e308, -5, 2.5]),
            low_freq_factor: r.pick([0, 1, 4, 1e308]),
            high_freq_factor: r.pick([0, 1, 4, 1e-308]),
            rope_theta: r.pick([1, 1e-308, 1e308, 10000, 0, -1, 1.0000001]),
            attention_factor: r.pick([undefined, 1e308, 1e-308, 1]),
            beta_fast: r.pick([undefined, 0, 1e308, 32]),
            beta_slow: r.pick([undefined, 1e308, 1e-308]),
            mscale: r.pick([undefined, 0, 1e308]),
            mscale_all_dim: r.pick([undefined, 0, -1e308]),
            truncate: r.pick([undefined, false]),
          };
          copy[key] = /^rope_[sp]/.test(key)
            ? rope
            : r.pick([...ODD, 4, 16, 64, 63, 65, 128, 160, 512, 511, 513, 10000, 10001, 1e9, 2 ** 31 - 1]);
          log_.push(`${key}=${stringify(copy[key]).slice(0, 40)}`);
        }
        text = stringify(copy);
        log = log_.join("; ");
      }
      return {
        log: `${name}: ${log}`,
        run: async () => {
          writeFileSync(join(to, "config.json"), text);
          await exercise(S, to);
          judge(CONFIG, text, name === "gpt2");
        },
      };
    },
  };
}

const GENERATION = {
  eos_token_id: ID,
  bos_token_id: ID,
  pad_token_id: ID,
  do_sample: BOOL,
  temperature: NUMBER,
  top_k: (v) => isInt(v),
  top_p: NUMBER,
  min_p: NUMBER,
  repetition_penalty: POSITIVE,
  seed: (v) => isInt(v),
  max_new_tokens: (v) => isInt(v),
};
export async function generation({ S, project, dir }) {
  cpSync(join(project, "test/fixtures/checkpoints/llama"), dir, { recursive: true });
  const good = {
    eos_token_id: [0, 2],
    bos_token_id: 0,
    pad_token_id: 0,
    do_sample: true,
    temperature: 0.7,
    top_k: 20,
    top_p: 0.9,
    min_p: 0.05,
    repetition_penalty: 1.1,
    seed: 3,
    max_new_tokens: 3,
  };
  return {
    make: (r) => {
      const m = mutateJson(r, good, { focus: /./ });
      const text = r.chance(0.15) ? mutateText(r, JSON.stringify(good)) : stringify(m.value);
      return {
        log: m.log.join("; "),
        run: async () => {
          writeFileSync(join(dir, "generation_config.json"), text);
          const model = await S.AutoModelForCausalLM.from_pretrained(dir, OPEN);
          try {
            await model.generate({ input_ids: IDS });
          } finally {
            await model.dispose();
          }
          judge(GENERATION, text);
        },
      };
    },
  };
}

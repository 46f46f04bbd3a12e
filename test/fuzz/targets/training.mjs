// Adapters, saved training states, and rows of data.
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mutateBytes, mutateJson, mutateText, stringify } from "../mutate.mjs";
import { BOOL, COUNT, exercise, isInt, json, judge, NUMBER, OPEN, TEXT, Wrong, wrong } from "./judging.mjs";
import { headerProblem, mutateFile } from "./safetensors.mjs";

const LORA = {
  r: COUNT,
  lora_alpha: NUMBER,
  lora_dropout: NUMBER,
  use_rslora: BOOL,
  fan_in_fan_out: BOOL,
  peft_type: TEXT,
  bias: TEXT,
};
export function adapter({ S, project, dir }) {
  const model = join(project, "test/fixtures/checkpoints/llama");
  const base = join(project, "test/fixtures/adapters/llama");
  cpSync(base, dir, { recursive: true });
  const good = json(join(base, "adapter_config.json"));
  const file = readFileSync(join(base, "adapter_model.safetensors"));
  return {
    make: (r) => {
      let text = JSON.stringify(good);
      let bytes = file;
      let log;
      const kind = r.next();
      if (kind < 0.3) [bytes, log] = mutateFile(r, file);
      else if (kind < 0.37) {
        text = mutateText(r, text);
        log = "text";
      } else if (kind < 0.56) {
        const copy = {
          ...good,
          [r.pick([
            "target_modules",
            "exclude_modules",
            "layers_pattern",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
          ])]: r.pick([
            "(.*.*.*.*.*.*)+x$",
            "(a+)+$",
            "all-linear",
            ".*\\.q_proj",
            "(?P<x>q)_proj",
            "[",
            "(?i)q_proj",
            ["q_proj", ""],
            [".*"],
            ["lm_head"],
            ["embed_tokens"],
            { q_proj: 8 },
            { "(.*)*$": 8 },
            { "^.*q_proj": 1e9 },
            { __proto__: null, "": 2 },
            ["q_proj", "v_proj", "q_proj"],
          ]),
        };
        text = JSON.stringify(copy);
        log = "patterns";
      } else {
        const m = mutateJson(r, good, {
          focus: /^\/(r|lora|target|rank|alpha|use|layers|modules|fan|bias|peft|init)/,
        });
        text = stringify(m.value);
        log = m.log.join("; ");
      }
      return {
        log,
        run: async () => {
          writeFileSync(join(dir, "adapter_config.json"), text);
          writeFileSync(join(dir, "adapter_model.safetensors"), bytes);
          await exercise(S, model, { adapter: dir });
          wrong(headerProblem(bytes), `accepted though: ${headerProblem(bytes)}`);
          judge(LORA, text);
        },
      };
    },
  };
}

export async function state({ S, project, dir }) {
  const model = await S.AutoModelForCausalLM.from_pretrained(
    join(project, "test/fixtures/checkpoints/llama"),
    OPEN,
  );
  const trainer = await S.Trainer.create(model, {
    max_length: 16,
    lora: { r: 4, target_modules: ["q_proj", "v_proj"] },
    seed: 7,
  });
  const batch = { input_ids: [[1, 2, 3, 4, 5, 6]], labels: [[1, 2, 3, 4, 5, 6]] };
  await trainer.step(batch);
  const saved = await trainer.save(dir, {
    meta: { fit: { version: 1, step: 1, tokens: 6, loss: 1, best_eval: null, cursor: {} } },
  });
  const record = join(saved, "training_state.json");
  const good = json(record);
  const files = good.files.map(({ name }) => ({ name, bytes: readFileSync(join(saved, name)) }));
  return {
    end: async () => {
      await trainer.dispose();
      await model.dispose();
    },
    make: (r) => {
      let text = JSON.stringify(good);
      let changed = files.map((f) => f.bytes);
      let log;
      const kind = r.int(5);
      if (kind < 2) {
        const m = mutateJson(r, good, { focus: /step|version|format|files|trainer/ });
        text = stringify(m.value);
        log = m.log.join("; ");
      } else if (kind === 2) {
        text = mutateText(r, text);
        log = "text";
      } else {
        const at = r.int(files.length);
        const [b, l] = mutateFile(r, files[at].bytes);
        changed = changed.map((x, i) => (i === at ? b : x));
        log = `${files[at].name}: ${l}`;
        if (r.chance(0.8))
          text = JSON.stringify({
            ...good,
            files: good.files.map((f, i) => ({ ...f, bytes: changed[i].length })),
          });
      }
      return {
        log,
        run: async () => {
          writeFileSync(record, text);
          for (const [i, { name }] of files.entries()) writeFileSync(join(saved, name), changed[i]);
          const whole = r.chance(0.5);
          await trainer.resume(whole ? dir : saved);
          const parsed = JSON.parse(text);
          wrong(
            trainer.steps !== parsed.step || !isInt(parsed.step),
            `step ${trainer.steps}, ${JSON.stringify(parsed.step)}`,
          );
          wrong(parsed.version !== 1 || parsed.format !== good.format, "another format");
          for (const [i, b] of changed.entries())
            wrong(headerProblem(b), `accepted though: ${headerProblem(b)} in ${files[i].name}`);
        },
      };
    },
  };
}

/** A trainer that computes nothing: what is tried is the reading of data. */
function standIn(tokenizer) {
  let steps = 0;
  return {
    model: {
      engine: { prepared: { spec: { max_positions: 256, vocab_size: 512 } } },
      tokenizer: async () => tokenizer,
    },
    get steps() {
      return steps;
    },
    plan: () => ({}),
    step: async (batches) => {
      for (const b of batches)
        for (const row of b.input_ids)
          wrong(!row.every((id) => isInt(id) && id < 512), `token ${row.find((id) => !isInt(id))}`);
      steps++;
      return {
        step: steps,
        loss: 1,
        grad_norm: 1,
        learning_rate: 1,
        tokens: 1,
        target_tokens: 1,
        skipped: false,
        seconds: 1,
        stalled: { disk: 0, copy: 0, optimizer: 0 },
        read_bytes: 0,
        written_bytes: 0,
      };
    },
    evaluate: async () => ({ loss: 1, tokens: 1 }),
    save: async (to) => to,
    resume: async () => ({}),
    export: async () => {},
    dispose: async () => {},
  };
}

export async function data(kind, { S, project, dir }) {
  const tokenizer = await S.AutoTokenizer.from_pretrained(join(project, "test/fixtures/checkpoints/llama"));
  const output_dir = join(dir, "out");
  const run = async (path) => {
    rmSync(output_dir, { recursive: true, force: true });
    const trainer = standIn(tokenizer);
    await S.fit(trainer, {
      data: path,
      output_dir,
      max_length: 32,
      epochs: 1,
      logging: { jsonl: false, tensorboard: false },
    });
    return trainer.steps;
  };
  if (kind === "parquet") {
    const names = [
      "completion",
      "groups",
      "messages",
      "text.brotli",
      "text.gzip",
      "text.lz4_raw",
      "text.snappy",
      "text.uncompressed",
      "text.zstd",
    ];
    const files = names.map((n) => readFileSync(join(project, "test/fixtures/data", `${n}.parquet`)));
    return {
      make: (r) => {
        const at = r.int(files.length);
        const bytes = mutateBytes(r, files[at]);
        return {
          log: names[at],
          run: async () => {
            const path = join(dir, "x.parquet");
            writeFileSync(path, bytes);
            await run(path);
          },
        };
      },
    };
  }
  const ROWS = [
    { text: "One two three." },
    { prompt: "Q?", completion: " A." },
    {
      messages: [
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Yes" },
      ],
    },
    {
      messages: [
        { role: "system", content: "s" },
        { role: "assistant", content: [{ type: "text", text: "x" }] },
      ],
      tools: [{ name: "f" }],
    },
  ];
  const fine = (v) => {
    if (typeof v !== "object" || v === null || Array.isArray(v)) return false;
    if (v.messages != null)
      return Array.isArray(v.messages) && v.messages.every((m) => typeof m?.role === "string");
    if (v.prompt != null || v.completion != null)
      return typeof v.prompt === "string" && typeof v.completion === "string";
    return typeof v.text === "string";
  };
  return {
    make: (r) => {
      const lines = Array.from({ length: 1 + r.int(6) }, () => JSON.stringify(r.pick(ROWS)));
      const at = r.int(lines.length);
      let log;
      if (r.chance(0.6)) {
        const m = mutateJson(r, r.pick(ROWS));
        lines[at] = stringify(m.value);
        log = m.log.join("; ");
      } else {
        lines[at] = mutateText(r, lines[at]);
        log = "text";
      }
      let bytes = Buffer.from(lines.join(r.pick(["\n", "\r\n", "\n\n", "\r"])) + r.pick(["", "\n"]));
      if (r.chance(0.1)) {
        bytes = mutateBytes(r, bytes);
        log = "bytes";
      }
      return {
        log,
        run: async () => {
          const path = join(dir, "x.jsonl");
          writeFileSync(path, bytes);
          await run(path);
          const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
          for (const line of text.split("\n")) {
            if (/^[ \t\r]*$/.test(line)) continue;
            let v;
            try {
              v = JSON.parse(line);
            } catch {
              throw new Wrong(`a line that is not JSON: ${line.slice(0, 60)}`);
            }
            wrong(!fine(v), `row ${line.slice(0, 80)}`);
          }
        },
      };
    },
  };
}

// Odd arguments of the public calls.
import { join } from "node:path";
import { IDS, OPEN, wrong } from "./judging.mjs";

/** Odd arguments of the public calls. */
export async function api({ S, project }) {
  const path = join(project, "test/fixtures/checkpoints/llama");
  const o = (r) =>
    r.pick([
      undefined,
      null,
      NaN,
      Infinity,
      -1,
      0,
      0.5,
      1,
      3,
      1000,
      2 ** 31,
      2 ** 53,
      "1",
      "",
      "x",
      "auto",
      "cpu",
      true,
      [],
      {},
      [1],
      "6G",
      "1KiB",
      "64MiB",
      "100%",
      -0,
      1n,
      () => 1,
      Symbol("s"),
    ]);
  const token = (r) =>
    r.pick([
      -1,
      0,
      1,
      5,
      511,
      512,
      1e9,
      2 ** 31,
      2 ** 32 + 5,
      1.5,
      NaN,
      Infinity,
      "7",
      null,
      undefined,
      true,
      7n,
      {},
    ]);
  const row = (r) =>
    Array.from({ length: r.pick([0, 1, 2, 7, 255, 256, 257, 600]) }, () =>
      r.chance(0.97) ? 1 + r.int(500) : token(r),
    );
  const rows = (r) =>
    r.pick([
      () => [row(r)],
      () => [row(r), row(r)],
      () => Array.from({ length: 40 }, () => [1 + r.int(500)]),
      () => row(r),
      () => o(r),
      () => [o(r)],
      () => [new Int32Array([1, 2, 3])],
    ])();
  return {
    make: (r) => {
      const options = { ...OPEN };
      for (let i = 0; i < r.int(3); i++)
        options[
          r.pick([
            "max_memory",
            "device_map",
            "device",
            "dtype",
            "kv_dtype",
            "context_length",
            "threads",
            "offload_folder",
            "low_cpu_mem_usage",
            "offload_packed",
            "adapter",
            "signal",
            "progress_callback",
          ])
        ] = r.pick([o(r), { cpu: o(r) }, { "": o(r) }, { "model.layers.0": "disk", "": "cpu" }, "disk"]);
      const generation = { max_new_tokens: r.chance(0.8) ? r.int(4) : o(r) };
      for (let i = 0; i < r.int(3); i++)
        generation[
          r.pick([
            "do_sample",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "seed",
            "stop_strings",
            "eos_token_id",
            "ignore_eos",
            "signal",
            "streamer",
          ])
        ] = o(r);
      const input = rows(r);
      const what = r.pick(["generate", "forward", "stream", "step", "evaluate", "concurrent"]);
      const safe = (v) => {
        try {
          return JSON.stringify(v, (_k, x) =>
            typeof x === "bigint" ||
            typeof x === "symbol" ||
            typeof x === "function" ||
            (typeof x === "number" && !Number.isFinite(x))
              ? String(x)
              : x,
          )?.slice(0, 150);
        } catch {
          return "?";
        }
      };
      return {
        log: `${what} ${safe(options)} ${safe(generation)} ${safe(input)}`,
        run: async () => {
          const model = await S.AutoModelForCausalLM.from_pretrained(path, options);
          try {
            if (what === "forward") await model.forward({ input_ids: input });
            else if (what === "generate") await model.generate({ input_ids: input, ...generation });
            else if (what === "stream") {
              for await (const piece of model.stream(
                r.pick([
                  input,
                  "hello",
                  [{ role: "user", content: "x" }],
                  Array.isArray(input) ? input[0] : input,
                ]),
                generation,
              ))
                wrong(typeof piece.text !== "string", "text");
            } else if (what === "concurrent") {
              const results = await Promise.allSettled([
                model.generate({ input_ids: input, ...generation }),
                model.forward({ input_ids: IDS }),
                r.chance(0.5) ? model.dispose() : model.generate({ input_ids: IDS, max_new_tokens: 3 }),
              ]);
              for (const x of results)
                if (x.status === "rejected" && !(x.reason instanceof S.SpillwayError)) throw x.reason;
            } else {
              const trainer = await S.Trainer.create(model, {
                max_length: 16,
                micro_batch_size: 2,
                [r.pick([
                  "learning_rate",
                  "betas",
                  "eps",
                  "max_grad_norm",
                  "precision",
                  "lora",
                  "seed",
                  "offload",
                  "x",
                ])]: r.chance(0.4) ? o(r) : undefined,
              });
              try {
                await trainer[what](
                  r.pick([
                    { input_ids: input, labels: input },
                    [{ input_ids: input, labels: input }],
                    { input_ids: input, labels: rows(r) },
                    {
                      input_ids: IDS,
                      labels: IDS,
                      positions: rows(r),
                      document_ids: r.chance(0.5) ? rows(r) : undefined,
                    },
                    o(r),
                  ]),
                );
              } finally {
                await trainer.dispose();
              }
            }
          } finally {
            await model.dispose();
          }
        },
      };
    },
  };
}

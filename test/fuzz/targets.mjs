// What is fuzzed. A target is made once per child process; its make(r, i) gives { log, run }.
import { api } from "./targets/api.mjs";
import { header, index, shapes } from "./targets/checkpoint.mjs";
import { config, generation } from "./targets/config.mjs";
import { template, tokenizer } from "./targets/text.mjs";
import { adapter, data, state } from "./targets/training.mjs";

export { Wrong } from "./targets/judging.mjs";

export const TARGETS = {
  ...{ header, index, config, generation, tokenizer, template, adapter, state, api, shapes },
  jsonl: (context) => data("jsonl", context),
  parquet: (context) => data("parquet", context),
};

// The call's values, else the file's, else the reference's; checked when they are used.
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { HONOURED, NOT_DONE, READ_ELSEWHERE } from "./keys.ts";
import { fileNotes, generationValues, refuseNotDone } from "./values.ts";

/** transformers 5.18: `list(GenerationConfig().__dict__)`, without what it computes. */
const REFERENCE_KEYS =
  "max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams use_mtp " +
  "use_cache cache_implementation cache_config max_cache_len temperature top_k top_p min_p top_h typical_p epsilon_cutoff " +
  "eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids " +
  "renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty " +
  "suppress_tokens begin_suppress_tokens sequence_bias token_healing guidance_scale watermarking_config " +
  "num_return_sequences output_attentions output_hidden_states output_scores output_logits return_dict_in_generate " +
  "pad_token_id bos_token_id eos_token_id encoder_no_repeat_ngram_size decoder_start_token_id is_assistant " +
  "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens " +
  "max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind assistant_ensemble_weight " +
  "speculation_type compile_config disable_compile continuous_batching_config low_memory penalty_alpha dola_layers " +
  "diversity_penalty num_beam_groups constraints force_words_ids prefill_chunk_size _from_model_config transformers_version";

test("every key of the reference has a row, and only one", () => {
  const known = [...Object.keys(HONOURED), ...Object.keys(NOT_DONE), ...READ_ELSEWHERE];
  expect(new Set(known).size).toBe(known.length);
  expect(REFERENCE_KEYS.split(" ").filter((key) => !known.includes(key))).toEqual([]);
});

describe("values", () => {
  test("of the call come before the file's, and null says nothing", () => {
    const file = { do_sample: true, temperature: 0.6, top_k: 20, repetition_penalty: 1.1 };
    const { values, notes } = generationValues({ temperature: 0.9, top_k: null }, file);
    expect(values).toMatchObject({ do_sample: true, temperature: 0.9, top_k: 20, repetition_penalty: 1.1 });
    expect(values).toMatchObject({ top_p: 1, typical_p: 1 });
    expect(notes).toEqual([]);
  });

  test("of drawing are not read where nothing is drawn, and the caller hears of it", () => {
    const odd = { temperature: 0, top_k: 0, top_p: 7, min_p: -1 };
    expect(generationValues({}, odd)).toEqual({ values: { do_sample: false }, notes: [] });
    expect(() => generationValues({}, { top_p: "all" })).toThrow('top_p must be from 0 to 1, got "all"');
    expect(() => generationValues({}, { top_k: -1 })).toThrow("top_k must be");
    const { notes } = generationValues({ temperature: 0.7, top_k: 50 }, {});
    expect(notes).toEqual([expect.stringMatching(/^temperature is used only where.*do_sample: true/)]);
    expect(generationValues({ temperature: 0.7 }, { do_sample: true }).notes).toEqual([]);
  });

  test.each([
    [{ do_sample: true, temperature: 0 }, /temperature must be .*do_sample: false.* got 0/],
    [{ do_sample: true, temperature: -1 }, /temperature must be a number above 0/],
    [{ do_sample: true, temperature: Number.NaN }, /got NaN/],
    [{ do_sample: true, top_k: 1.5 }, /top_k must be a whole number from 0 \(0: no limit\), got 1.5/],
    [{ do_sample: true, top_k: -1 }, /top_k must be/],
    [{ do_sample: true, top_p: 1.01 }, /top_p must be from 0 to 1, got 1.01/],
    [{ do_sample: true, min_p: -0.1 }, /min_p must be/],
    [{ do_sample: true, top_h: 0 }, /top_h must be/],
    [{ do_sample: 1 }, /do_sample must be true or false, got 1/],
    [{ repetition_penalty: 0 }, /repetition_penalty must be a number above 0 \(1: none\), got 0/],
    [{ max_new_tokens: -1 }, /max_new_tokens must be/],
    [{ max_length: 0 }, /max_length must be/],
    [{ bad_words_ids: [[]] }, /bad_words_ids must be a list of lists/],
    [{ bad_words_ids: [5] }, /bad_words_ids must be/],
    [{ sequence_bias: { "(1, 2)": 3 } }, /sequence_bias must be/],
    [{ exponential_decay_length_penalty: [5] }, /exponential_decay_length_penalty must be/],
    [{ suppress_tokens: 5 }, /suppress_tokens must be a list of token ids, got 5/],
    [{ stop_strings: "" }, /stop_strings must be a text or a list of texts, none of them empty, got ""/],
    [{ stop_strings: ["a", ""] }, /stop_strings must be/],
    [{ stop_strings: [5] }, /stop_strings must be/],
    [{ max_time: 0 }, /max_time must be seconds/],
  ])("%j is refused, of a call and of a file", (values, message) => {
    expect(() => generationValues(values, {})).toThrow(ConfigError);
    expect(() => generationValues(values, {})).toThrow(message);
    expect(() => generationValues({}, values)).toThrow("generation_config.json: ");
    expect(() => generationValues({}, values)).toThrow(message);
  });

  test("one text or id stands for a list of one", () => {
    const { values } = generationValues({ stop_strings: "cd", forced_eos_token_id: 4 }, {});
    expect(values).toMatchObject({ stop_strings: ["cd"], forced_eos_token_id: [4] });
  });

  test("max_new_tokens goes before max_length, but what the caller says goes before the file", () => {
    const both = { max_length: 10, max_new_tokens: 3 };
    expect(generationValues(both, {}).values).toMatchObject(both);
    expect(generationValues({ max_length: 10 }, { max_new_tokens: 3 }).values.max_new_tokens).toBeUndefined();
    expect(generationValues({ max_new_tokens: 3 }, { max_length: 10 }).values.max_new_tokens).toBe(3);
  });
});

describe("what is not done", () => {
  test("is named once where a file asks for it", () => {
    const file = {
      num_beams: 4,
      num_beam_groups: 2,
      guidance_scale: 1,
      use_cache: false,
      chat_format: "x",
      flavour: 1,
    };
    expect(fileNotes(file)).toEqual([
      "generation_config.json: num_beams is 4 and is ignored: beam search is not done",
      "generation_config.json: num_beam_groups is 2 and is ignored: beam search is not done",
      "generation_config.json: chat_format and flavour: not known and ignored",
    ]);
  });

  test("is an error where a caller does, unless it asks for nothing", () => {
    expect(() => refuseNotDone({ num_beams: 4 })).toThrow(ConfigError);
    expect(() => refuseNotDone({ num_beams: 4 })).toThrow(
      "num_beams: 4 cannot be done (beam search is not done)",
    );
    refuseNotDone({
      num_beams: 1,
      use_cache: true,
      penalty_alpha: 0,
      guidance_scale: null,
      output_scores: false,
    });
  });
});

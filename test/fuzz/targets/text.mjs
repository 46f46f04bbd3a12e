// Tokenizers and chat templates.
import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mutateJson, mutateText, ODD, stringify } from "../mutate.mjs";
import { json, wrong } from "./judging.mjs";

const TEXTS = [
  "Hello, world! It's 2026.",
  "  naïve café \u{1F600} \u4e2d\u6587 <|endoftext|>x<|im_end|>",
  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
  "",
];
export function tokenizer({ S, project, dir }) {
  const bases = ["checkpoints/llama", "tokenizers/metaspace-unigram", "tokenizers/sentencepiece-bpe"].map(
    (name) => {
      const to = join(dir, name.replace("/", "-"));
      cpSync(join(project, "test/fixtures", name), to, { recursive: true });
      const good = json(join(to, "tokenizer.json"));
      // most of the vocabulary is of no interest to mutations, and slow to copy
      return {
        name,
        to,
        good,
        small: { ...good, model: { ...good.model, vocab: undefined, merges: undefined } },
      };
    },
  );
  const regex = (r) => ({
    Regex: r.pick([
      "(a+)+$",
      "(a|aa)*b",
      "\\p{L}+",
      "(?i:x)",
      "[[:alpha:]]",
      "(?<!a)b",
      "((((",
      "\\",
      "a{1,99999}",
      "(?>a)",
      "[a&&b]",
      "\\X",
      "",
      ".*.*.*=",
      "(?:(?:(?:a?){20}){20}){20}",
      "[".repeat(300),
    ]),
  });
  const part = (r) =>
    r.pick([
      { type: "FixedLength", length: r.pick([0, -1, 1, 5, null, "2", 1e308, 0.5]) },
      {
        type: "Split",
        pattern: regex(r),
        behavior: r.pick(["Isolated", "Removed", "x"]),
        invert: r.pick([true, false, null]),
      },
      {
        type: "Sequence",
        pretokenizers: [{ type: "Digits", individual_digits: true }, { type: "Whitespace" }],
        normalizers: [{ type: "NFKC" }],
        decoders: [{ type: "Fuse" }, { type: "Strip", content: "a", start: 1e9, stop: 1e9 }],
        processors: [{ type: "ByteLevel" }],
      },
      {
        type: "Replace",
        pattern: r.chance(0.5) ? { String: r.pick(["", "a", " "]) } : regex(r),
        content: r.pick(["", "x", "y".repeat(100000), null, 5]),
      },
      { type: "Prepend", prepend: r.pick([null, "x".repeat(1e6), 5]) },
      { type: "Metaspace", replacement: r.pick(["", "ab", null, "\u2581"]), prepend_scheme: "always" },
      { type: "ByteLevel" },
      { type: "CTC", pad_token: "a", cleanup: true },
      { type: "WordPiece", prefix: "##" },
      { type: "BPEDecoder", suffix: "" },
      { type: "ByteFallback" },
      { type: "Strip", content: "", start: 1e308, stop: -1 },
      { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, lowercase: true },
      { type: "Precompiled", precompiled_charsmap: "AAAA" },
      {
        type: "TemplateProcessing",
        single: [
          { SpecialToken: { id: "nope", type_id: 0 } },
          { Sequence: { id: "A", type_id: 0 } },
          { Sequence: { id: "B" } },
        ],
        pair: [],
      },
      { type: "BertProcessing", cls: ["x", 1], sep: ["y", 2] },
      { type: "__proto__" },
      {},
      [],
      null,
      5,
    ]);
  return {
    make: (r) => {
      const { name, to, good, small } = r.pick(bases);
      let text;
      const log = [name];
      const kind = r.int(8);
      if (kind < 3) {
        const m = mutateJson(r, small, { focus: /normalizer|pre_tokenizer|decoder|post|added|model/ });
        log.push(...m.log);
        const v = m.value;
        if (v?.model && typeof v.model === "object" && !v.model.$members && r.chance(0.9))
          Object.assign(v.model, {
            vocab: v.model.vocab ?? good.model.vocab,
            merges: v.model.merges ?? good.model.merges,
          });
        text = stringify(v);
      } else if (kind < 6) {
        const copy = { ...good };
        for (let i = 0; i < 1 + r.int(2); i++) {
          const key = r.pick(["normalizer", "pre_tokenizer", "decoder", "post_processor"]);
          copy[key] = part(r);
          log.push(`${key}=${JSON.stringify(copy[key])?.slice(0, 90)}`);
        }
        text = JSON.stringify(copy);
      } else if (kind === 6) {
        const copy = structuredClone(good);
        const keys = Object.keys(copy.model.vocab);
        for (let i = 0; i < 3; i++) {
          const k = r.pick(keys);
          copy.model.vocab[k] = r.pick([...ODD.slice(0, 30), ["a", "b"], ["a", 1e308]]);
          log.push(`vocab ${k}=${stringify(copy.model.vocab[k]).slice(0, 30)}`);
        }
        if (r.chance(0.5) && copy.model.merges) {
          copy.model.merges.unshift(
            ...r.pick([
              [
                ["a", "a"],
                ["aa", "a"],
              ],
              ["a"],
              [""],
              [" "],
              [["a"]],
              [[1, 2]],
              [null],
              ["a b c"],
            ]),
          );
          log.push("merges");
        }
        if (r.chance(0.3)) {
          copy.added_tokens = [
            ...(copy.added_tokens ?? []),
            {
              id: r.pick([0, -1, 2 ** 32 - 2, 1e9, null, "x", 1.5]),
              content: r.pick(["", "a", null, "<|x|>", " ", 5]),
              special: r.pick([true, false]),
              lstrip: true,
              rstrip: true,
              normalized: true,
            },
          ];
          log.push("added");
        }
        text = stringify(copy);
      } else {
        text = mutateText(r, JSON.stringify(good));
        log.push("text");
      }
      return {
        log: log.join("; "),
        run: async () => {
          writeFileSync(join(to, "tokenizer.json"), text);
          const t = await S.AutoTokenizer.from_pretrained(to);
          wrong(
            t.eos_token_ids.some((id) => !Number.isInteger(id)),
            `eos ids ${t.eos_token_ids}`,
          );
          for (const one of TEXTS) {
            const ids = t.encode(one);
            wrong(!ids.every((id) => Number.isInteger(id)), `ids ${ids.slice(0, 5)}`);
            for (const skip_special_tokens of [true, false])
              wrong(typeof t.decode(ids, { skip_special_tokens }) !== "string", "decode gives no string");
          }
          wrong(typeof t.decode([0, 1, 2, 3, 300, 511, 1e6]) !== "string", "decode gives no string");
        },
      };
    },
  };
}

export function template({ S, project, dir }) {
  cpSync(join(project, "test/fixtures/checkpoints/llama"), dir, { recursive: true });
  const good = json(join(dir, "tokenizer_config.json"));
  const TEMPLATES = [
    good.chat_template,
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}{% elif m.role == 'system' %}{{ raise_exception('no') }}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "{% set ns = namespace(x=[1], s='a') %}{% for i in range(25) %}{% set ns.x = ns.x + ns.x %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.x | length }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ messages | tojson(indent=4) }}{{ messages[0].content.constructor }}{{ messages.__proto__ }}{{ range.constructor('return 1')() }}",
    "{%- if tools %}{{ tools | map(attribute='name') | join(', ') }}{%- endif %}{{ messages[::-1] | selectattr('role', 'equalto', 'user') | list | length }}{{ strftime_now('%d %b %Y') }}",
  ];
  const PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "range(100000)",
    "range(-1e9)",
    "* 1e9",
    "'a' * 100000",
    "| tojson(indent=1000000)",
    "| indent(100000000)",
    "| join",
    "| sort",
    "| first",
    "| unique",
    "| reverse",
    "| replace('', 'xxxx')",
    "[0]",
    "[-1]",
    "[:1e9]",
    "is defined",
    "not in",
    "loop.index",
    "messages",
    "messages | tojson",
    "{% for a in range(3) %}",
    "{% endfor %}",
    "{% if true %}",
    "{% endif %}",
    "{% set x = 1 %}",
    "{% break %}",
    "{% generation %}",
    ".constructor",
    ".__proto__",
    "(".repeat(50),
    ")".repeat(50),
    "'",
    '"',
    "\\",
    "\u0000",
    "-%}",
    "{{ raise_exception(messages) }}",
    "~",
    "+ messages",
    "namespace(a=1)",
    "{% call f() %}{% endcall %}",
    "{% filter upper %}",
    "lipsum",
    "cycler",
    "self",
    "1 // 0",
    "1 % 0",
    "none + 1",
  ];
  return {
    make: (r) => {
      const copy = structuredClone(good);
      const log = [];
      let jinja;
      if (r.chance(0.75)) {
        let t = r.pick(TEMPLATES);
        for (let i = 0; i < 1 + r.int(4); i++) {
          const at = r.int(t.length + 1);
          const piece = r.pick(PIECES);
          t = r.pick([
            t.slice(0, at) + piece + t.slice(at),
            t.slice(0, at) + t.slice(at + r.int(12)),
            t.slice(0, at),
            t + piece,
            `{{ ${piece} }}${t}`,
            t.slice(0, at) + t.slice(Math.max(0, at - 30), at) + t.slice(at),
          ]);
        }
        copy.chat_template = t.slice(0, 5000);
        if (r.chance(0.1)) jinja = copy.chat_template;
        log.push(copy.chat_template.slice(0, 300));
      } else {
        const m = mutateJson(
          r,
          {
            ...good,
            additional_special_tokens: ["<|x|>"],
            remove_space: true,
            clean_up_tokenization_spaces: true,
            chat_template: [
              { name: "default", template: good.chat_template },
              { name: "tool_use", template: "{{ tools }}" },
            ],
          },
          { focus: /./ },
        );
        Object.assign(copy, m.value);
        for (const k of Object.keys(copy)) if (!Object.hasOwn(m.value ?? {}, k)) delete copy[k];
        log.push(...m.log);
      }
      const text = stringify(copy);
      return {
        log: log.join("; "),
        run: async () => {
          writeFileSync(join(dir, "tokenizer_config.json"), text);
          if (jinja) writeFileSync(join(dir, "chat_template.jinja"), jinja);
          else rmSync(join(dir, "chat_template.jinja"), { force: true });
          const t = await S.AutoTokenizer.from_pretrained(dir);
          const messages = [
            { role: "system", content: "s" },
            { role: "user", content: "Hi" },
            { role: "assistant", content: "Yes." },
            { role: "user", content: "é\u{1F600}" },
          ];
          const out = t.apply_chat_template(messages.slice(r.int(2)), {
            add_generation_prompt: true,
            ...(r.chance(0.3) && { tools: [{ name: "f" }] }),
          });
          wrong(typeof out !== "string", "no string");
          wrong(
            /function|=>|process|native code/.test(out) && !/function|=>|process|native/.test(text),
            `leaks ${out.slice(0, 80)}`,
          );
          t.encode(out.slice(0, 20000));
        },
      };
    },
  };
}

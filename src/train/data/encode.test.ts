import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { ChatTemplates } from "../../generate/text/chat-template.ts";
import { AutoTokenizer } from "../../generate/text/tokenizer.ts";
import { type EncodeRowOptions, RowEncoder, type RowTokenizer } from "./encode.ts";
import { type Example, IGNORE_INDEX } from "./example.ts";
import { parseRow, type Row, RowProblem } from "./row.ts";
import { END, FIXTURES, numbers } from "./testing.ts";

const chatml = await AutoTokenizer.from_pretrained(join(FIXTURES, "checkpoints/llama")); // byte-level, ChatML template
const sentencePiece = await AutoTokenizer.from_pretrained(join(FIXTURES, "tokenizers/sentencepiece-bpe")); // begins texts with <s>

function encode(
  value: unknown,
  tokenizer: RowTokenizer = chatml,
  options?: EncodeRowOptions,
): Promise<Example | RowProblem> {
  return new RowEncoder(tokenizer, options).encode(parseRow(value) as Row);
}

/** The text of the tokens that are learned, other stretches as "_". */
async function learned(value: unknown, tokenizer = chatml, options?: EncodeRowOptions): Promise<string> {
  const example = await encode(value, tokenizer, options);
  if (example instanceof RowProblem) throw new Error(example.problem);
  const { input_ids, labels } = example;
  expect(labels).toHaveLength(input_ids.length);
  expect(labels[0]).toBe(IGNORE_INDEX);
  let text = "";
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] === IGNORE_INDEX) {
      if (!text.endsWith("_")) text += "_";
    } else {
      let end = i;
      while (end < labels.length && labels[end] !== IGNORE_INDEX) expect(labels[end]).toBe(input_ids[end++]);
      text += tokenizer.decode(labels.slice(i, end));
      i = end - 1;
    }
  }
  return text;
}

describe("texts", () => {
  test("every token but the first is learned, and the end", async () => {
    expect(await new RowEncoder(numbers).encode({ kind: "text", text: "5 6 7" })).toEqual({
      input_ids: [5, 6, 7, END],
      labels: [IGNORE_INDEX, 6, 7, END],
    });
  });

  test("the end is not doubled, and can be left out or be another token", async () => {
    const ids = async (text: string, options?: EncodeRowOptions) =>
      ((await new RowEncoder(numbers, options).encode({ kind: "text", text })) as Example).input_ids;
    expect(await ids("5 0")).toEqual([5, END]);
    expect(await ids("5", { append_eos: false })).toEqual([5]);
    expect(await ids("5", { eos_token_id: 9 })).toEqual([5, 9]);
    expect(await ids("")).toEqual([END]);
  });

  test("the end is the tokenizer's own token, not the first that ends what is generated", async () => {
    const own = { ...numbers, eos_token_ids: [END, 10], eos_token_id: 10 };
    const { input_ids } = (await new RowEncoder(own).encode({ kind: "text", text: "5" })) as Example;
    expect(input_ids).toEqual([5, 10]);
  });

  test("a token that the model has no row for is a problem of the row, by its name", async () => {
    const added = { ...numbers, id_to_token: (id: number) => (id === 512 ? "<tool>" : undefined) };
    const encoder = new RowEncoder(added, { vocab_size: 512 });
    expect(await encoder.encode({ kind: "text", text: "5 511" })).toMatchObject({ input_ids: [5, 511, END] });
    for (const [text, name] of [
      ["5 512", '"<tool>" (512)'],
      ["600", "600"],
    ] as const)
      expect(await encoder.encode({ kind: "text", text })).toMatchObject({
        problem: expect.stringContaining(`has the token ${name}, and the model's vocabulary ends at 511`),
      });
  });

  test("a tokenizer without an end token needs to be told", async () => {
    const endless = { ...numbers, eos_token_ids: [] };
    expect(() => new RowEncoder(endless)).toThrow(ConfigError);
    expect(() => new RowEncoder(endless)).toThrow(/eos_token_id, or set append_eos to false/);
    expect(
      await new RowEncoder(endless, { append_eos: false }).encode({ kind: "text", text: "5" }),
    ).toMatchObject({
      input_ids: [5],
    });
  });

  test("what the tokenizer puts in front stays in front", async () => {
    const { input_ids } = (await encode({ text: "hello" }, sentencePiece)) as Example;
    expect(input_ids[0]).toBe(sentencePiece.bos_token_id);
    expect(input_ids.at(-1)).toBe(sentencePiece.eos_token_ids[0]);
  });
});

describe("completions", () => {
  test("the completion and the end are learned, the prompt is not", async () => {
    expect(await learned({ prompt: "Q: 2+2\nA:", completion: " 4" })).toBe("_ 4<|endoftext|>");
  });

  test("tokens are those of the whole text: one across the boundary belongs to the completion", async () => {
    const whole = (await encode({ text: "The end of it" })) as Example;
    for (const cut of [3, 4, 5, 6, 9]) {
      const row = { prompt: "The end of it".slice(0, cut), completion: "The end of it".slice(cut) };
      const example = (await encode(row)) as Example;
      expect(example.input_ids).toEqual(whole.input_ids);
      const text = (await learned(row)).slice(1);
      expect("The end of it<|endoftext|>".endsWith(text)).toBe(true);
      expect(text.length).toBeGreaterThanOrEqual(`${row.completion}<|endoftext|>`.length);
    }
  });

  test("an empty prompt, an empty completion", async () => {
    expect(await learned({ prompt: "", completion: "abc abc" })).toMatch(/^_.+<\|endoftext\|>$/);
    expect(await learned({ prompt: "abc", completion: "" })).toBe("_<|endoftext|>");
  });
});

describe("conversations", () => {
  const turn = (role: string, content: string) => ({ role, content });
  const two = [
    turn("user", "Hi there"),
    turn("assistant", "Hello!"),
    turn("user", "2+2?"),
    turn("assistant", "4"),
  ];

  test("the assistant's words and what ends its turns are learned", async () => {
    expect(await learned({ messages: two })).toBe("_Hello!<|im_end|>\n_4<|im_end|>\n");
  });

  test("a system turn, and a user who has the last word", async () => {
    const messages = [turn("system", "Be brief."), ...two.slice(0, 3)];
    expect(await learned({ messages })).toBe("_Hello!<|im_end|>\n_");
  });

  test("the tokens are those of the conversation as it is rendered", async () => {
    const { input_ids } = (await encode({ messages: two })) as Example;
    const text = chatml.apply_chat_template(two);
    expect(input_ids).toEqual(chatml.encode(text, { add_special_tokens: false }));
  });

  test("nothing is learned after the token that ends a turn", async () => {
    const id = chatml.token_to_id("<|im_end|>")!;
    const { input_ids, labels } = (await new RowEncoder({
      eos_token_ids: [id],
      encode: (text, options) => chatml.encode(text, options),
      apply_chat_template: (messages, options) => chatml.apply_chat_template(messages, options),
    }).encode(parseRow({ messages: two }) as Row)) as Example;
    expect(labels.at(-1)).toBe(IGNORE_INDEX); // the line break
    expect(labels.at(-2)).toBe(id);
    expect(input_ids.filter((token) => token === id)).toHaveLength(4);
    expect(labels.filter((label) => label === id)).toHaveLength(2);
  });

  test("words that look like another turn do not confuse it", async () => {
    const messages = [
      turn("user", "say assistant\nHello!"),
      turn("assistant", "assistant\nHello!"),
      ...two.slice(2),
    ];
    expect(await learned({ messages })).toBe("_assistant\nHello!<|im_end|>\n_4<|im_end|>\n");
  });

  test("templates of other shapes: begin tokens, content trimmed, answers begun with more than they keep", async () => {
    const inst =
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]" +
      "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}";
    const template_options = { chat_template: inst };
    expect(await learned({ messages: two }, sentencePiece, { template_options })).toMatch(
      /^_ ?Hello!<\/s>_ ?4<\/s>$/,
    );
    const thinking =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}" +
      "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
    expect(await learned({ messages: two }, chatml, { template_options: { chat_template: thinking } })).toBe(
      "_Hello!<|im_end|>_4<|im_end|>",
    );
  });

  test("a template that renders a turn differently once others follow is refused", async () => {
    const forgetful =
      "{% for m in messages %}{{ m.role }}: {% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}\n{% endfor %}" +
      "{% if add_generation_prompt %}assistant: {% endif %}";
    const template_options = { chat_template: forgetful };
    const row = await encode({ messages: two }, chatml, { template_options });
    expect(row).toBeInstanceOf(RowProblem);
    expect((row as RowProblem).problem).toMatch(
      /does not render the messages up to number 1 the same way .*chat_template/s,
    );
    // Where only the last turn is the assistant's there is nothing to confuse.
    expect(await learned({ messages: two.slice(0, 2) }, chatml, { template_options })).toBe(
      "_<think></think>Hello!\n",
    );
  });

  test("what the template or the tokenizer refuses is a problem of the row", async () => {
    const template_options = { chat_template: "{{ raise_exception('roles must alternate') }}" };
    const row = await encode({ messages: two }, chatml, { template_options });
    expect(row).toMatchObject({ problem: expect.stringContaining("roles must alternate") });
    expect(await encode({ messages: two }, numbers)).toMatchObject({
      problem: "no template",
    });
  });

  test("turns of a weight of 0, and a prompt's, are not learned", async () => {
    const messages = two.map((message, i) => (i === 1 ? { ...message, weight: 0 } : message));
    expect(await learned({ messages })).toBe("_4<|im_end|>\n");
    expect(await learned({ prompt: two.slice(0, 3), completion: two.slice(3) })).toBe("_4<|im_end|>\n");
  });

  test("a model without a template is said once, with the options that give one", async () => {
    const plain = { ...numbers, apply_chat_template: () => new ChatTemplates(new Map(), {}).render([]) };
    await expect(new RowEncoder(plain).encode(parseRow({ messages: two }) as Row)).rejects.toThrow(
      /the rows are conversations, and .*has no chat template.*chat_template \(--chat-template FILE\)/,
    );
  });

  test("tools reach the template", async () => {
    const template_options = {
      chat_template:
        "{% for t in tools or [] %}{{ t.name }} {% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}",
    };
    const { input_ids } = (await encode({ messages: two, tools: [{ name: "add" }] }, chatml, {
      template_options,
    })) as Example;
    expect(chatml.decode(input_ids)).toBe("add Hi thereHello!2+2?4");
  });
});

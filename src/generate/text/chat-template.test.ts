import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedError } from "../../base/errors.ts";
import { ChatTemplates } from "./chat-template.ts";

const messages = [{ role: "user", content: "hi" }];
const render = (template: string, options = {}) =>
  new ChatTemplates(new Map([["default", template]]), { bos_token: "<s>" }).render(messages, options);

describe("variables", () => {
  test("are the messages, the special tokens and whatever the caller adds", () => {
    expect(render("{{ bos_token }}{{ messages[0].role }} {{ mood }}", { mood: "calm" })).toBe("<s>user calm");
    expect(render("{{ bos_token }}", { bos_token: "<mine>" })).toBe("<mine>");
  });

  test("tools and documents are none unless given; a special token that does not exist is empty", () => {
    expect(render("{{ tools is none }} {{ documents is none }} [{{ eos_token }}]")).toBe("True True []");
    expect(render("{{ tools | tojson }}", { tools: [{ name: "f" }] })).toBe('[{"name": "f"}]');
  });

  test("the line end after a block tag and the indentation before it go, as transformers sets Jinja up", () => {
    expect(render("  {% if true %}\na\n  {% endif %}\nb\n")).toBe("a\nb");
  });
});

describe("several templates", () => {
  const templates = new ChatTemplates(
    new Map([
      ["default", "plain"],
      ["tool_use", "tools"],
      ["rag", "documents"],
    ]),
    {},
  );

  test("default, or tool_use if there are tools, or the one named", () => {
    expect(templates.render(messages)).toBe("plain");
    expect(templates.render(messages, { tools: [] })).toBe("tools");
    expect(templates.render(messages, { chat_template: "rag" })).toBe("documents");
  });

  test("a name that does not exist is an error with those that do", () => {
    expect(() => templates.render(messages, { chat_template: "rga" })).toThrow(ConfigError);
    expect(() => templates.render(messages, { chat_template: "rga" })).toThrow(
      'no chat template "rga", only "default", "tool_use", "rag"',
    );
    const noDefault = new ChatTemplates(new Map([["rag", "documents"]]), {});
    expect(() => noDefault.render(messages)).toThrow(
      'the checkpoint\'s chat templates are "rag", none of them the default',
    );
  });
});

describe("templates that fail", () => {
  test("raise_exception is the template refusing the messages", () => {
    const template = "{{ raise_exception('roles must alternate') }}";
    expect(() => render(template)).toThrow(ConfigError);
    expect(() => render(template)).toThrow(
      "the chat template does not accept these messages: roles must alternate",
    );
  });

  test("a mistake while running is an error of these messages, one of syntax is unsupported", () => {
    expect(() => render("{{ messages[0].content.nothing() }}")).toThrow(ConfigError);
    expect(() => render("{% for %}")).toThrow(UnsupportedError);
    expect(() => render("{{ unclosed")).toThrow("the chat template cannot be parsed");
  });

  test("messages that are no list, or contain themselves, are refused", () => {
    const circular: { role: string; content?: unknown } = { role: "user" };
    circular.content = circular;
    const templates = new ChatTemplates(new Map([["default", "x"]]), {});
    expect(() => templates.render("hi" as unknown as [])).toThrow(
      'messages must be a list of { role, content }, got "hi"',
    );
    expect(() => templates.render([circular])).toThrow(ConfigError);
  });
});

describe("continue_final_message", () => {
  const template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}";
  const trimming = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}";
  const chat = [
    { role: "user", content: "Count." },
    { role: "assistant", content: "One, two, " },
  ];
  const open = (text: string, options = {}, turns: readonly { role: string; content?: unknown }[] = chat) =>
    new ChatTemplates(new Map([["default", text]]), {}).render(turns, {
      continue_final_message: true,
      ...options,
    });

  test("ends with the final message, its white space as the template leaves it", () => {
    expect(open(template)).toBe("<user>Count.</s><assistant>One, two, ");
    expect(open(trimming)).toBe("<user>Count.</s><assistant>One, two,");
  });

  test("goes on with a field of that name, and with the last part that is text", () => {
    const thinking = "{% for m in messages %}<think>{{ m.reasoning }}</think>{{ m.content }}{% endfor %}";
    const turns = [{ role: "assistant", reasoning: "Hm", content: "" }];
    expect(open(thinking, { continue_final_message: "reasoning" }, turns)).toBe("<think>Hm");
    const parts = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}";
    const inParts = [
      {
        role: "assistant",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
      },
    ];
    expect(open(parts, {}, inParts)).toBe("[a][b");
  });

  test("leaves the caller's messages as they are", () => {
    open(template);
    expect(chat[1]?.content).toBe("One, two, ");
  });

  test("is refused where there is nothing to continue, or another turn is asked for", () => {
    expect(() => open(template, {}, [{ role: "assistant" }])).toThrow('the final message has no "content"');
    expect(() => open(template, { continue_final_message: "thinking" })).toThrow('has no "thinking"');
    expect(() => open(template, { add_generation_prompt: true })).toThrow("exclude one another");
    expect(() => open("{{ messages | length }} content")).toThrow("cannot be continued");
  });
});

describe("content in parts", () => {
  const text = (words: string) => ({ type: "text", text: words });
  const image = { type: "image_url", image_url: { url: "cat.png" } };
  const chatml = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}";
  const withParts = (content: unknown[], template = chatml) =>
    new ChatTemplates(new Map([["default", template]]), {}).render([{ role: "user", content }]);

  test("reaches a template that takes parts as it is", () => {
    const template = "{% for p in messages[0].content %}[{{ p.type }}]{% endfor %}";
    expect(withParts([text("a"), image], template)).toBe("[text][image_url]");
  });

  test("is joined for one that takes text alone", () => {
    expect(withParts([text("a"), text("b")])).toBe("<user>a b");
    const strict =
      "{% if messages[0].content is not string %}{{ raise_exception('text only') }}{% endif %}ok";
    expect(withParts([text("a")], strict)).toBe("ok");
  });

  test("of another kind is refused by name", () => {
    expect(() => withParts([text("a"), image])).toThrow('messages[0].content[1] is {"type": "image_url"');
    expect(() => withParts([text("a"), image])).toThrow("takes text alone");
  });
});

describe("options that are no variables", () => {
  test("those about tokens are refused by name, unless they ask for nothing", () => {
    expect(render("{{ tokenize }}|{{ padding }}", { tokenize: false, padding: null })).toBe("|");
    expect(() => render("x", { tokenize: true, max_length: 5 })).toThrow(
      "tokenize and max_length cannot be honoured",
    );
  });

  test("tools and documents are lists of objects", () => {
    expect(() => render("x", { tools: ["f"] })).toThrow(
      'tools[0] must be the JSON schema of a function, got "f"',
    );
    expect(() => render("x", { tools: { name: "f" } })).toThrow("tools must be a list");
    expect(() => render("x", { documents: [1] })).toThrow("documents[0] must be an object");
  });

  test("variables are data: a function or an instance of a class is refused by name", () => {
    expect(() => render("x", { when: new Date(0) })).toThrow("when is a Date");
    expect(() => render("x", { strftime_now: () => "1999" })).toThrow("strftime_now is a function");
    expect(render("{{ n + 1 }}", { n: 2n ** 60n })).toBe(String(2n ** 60n + 1n));
  });
});

import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedError } from "../errors.ts";
import { strftime } from "../sandbox/jinja.ts";
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
    expect(render("{{ tools is none }} {{ documents is none }} [{{ eos_token }}]")).toBe("true true []");
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

  test("a template cannot exhaust memory with range", () => {
    expect(render("{% for i in range(3) %}{{ i }}{% endfor %}{{ range(5, 0, -2) | join }}")).toBe("012531");
    expect(() => render("{{ range(10 ** 12) | length }}{{ range(1000000000000) }}")).toThrow(ConfigError);
    expect(() => render("{{ range(1000000000000) }}")).toThrow("at most 100000 are allowed");
  });

  test("messages that are no list, or contain themselves, are refused", () => {
    const circular: { role: string; content?: unknown } = { role: "user" };
    circular.content = circular;
    const templates = new ChatTemplates(new Map([["default", "x"]]), {});
    expect(() => templates.render("hi" as unknown as [])).toThrow(
      "messages must be a list of { role, content }, got string",
    );
    expect(() => templates.render([circular])).toThrow(ConfigError);
  });
});

describe("strftime_now", () => {
  test("writes dates as Python does in the C locale", () => {
    const date = new Date(2024, 6, 5, 14, 3, 9);
    expect(strftime(date, "%d %b %Y|%d %B %y|%A %a|%H:%M:%S|%I %p|%m|100%%|%Q")).toBe(
      "05 Jul 2024|05 July 24|Friday Fri|14:03:09|02 PM|07|100%|%Q",
    );
    expect(strftime(new Date(2024, 0, 1, 0, 0), "%I %p")).toBe("12 AM");
  });

  test("is there for templates", () => {
    expect(render("{{ strftime_now('%Y') }}")).toMatch(/^\d{4}$/);
    // Functions cannot be handed to the sandbox.
    expect(() => render("{{ strftime_now('%Y') }}", { strftime_now: () => "1999" })).toThrow(
      "are no plain data",
    );
  });
});

// Templates beside what jinja2 3.1.6 makes of them under transformers 5.18 (ImmutableSandboxedEnvironment, trim_blocks,
// lstrip_blocks, loopcontrols, its tojson). The expected texts in test/fixtures/templates were written by Python.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { renderTemplate, strftime, TemplateError } from "./index.ts";

const fixture = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../test/fixtures/templates/${name}.json`, import.meta.url), "utf8"));

/** The time at which Python wrote the fixtures. */
const now = new Date(2024, 6, 5, 14, 3, 9);

/** Null where Python raised something whose message is its own. */
type Expected = string | { raises: string | null };

function check(template: string, variables: Record<string, unknown>, expected: Expected): void {
  if (typeof expected === "string") {
    expect(renderTemplate(template, variables, { now })).toBe(expected);
    return;
  }
  const error = thrown(() => renderTemplate(template, variables, { now }));
  expect(error).toBeInstanceOf(TemplateError);
  if (expected.raises !== null) expect((error as Error).message).toContain(expected.raises);
}

function thrown(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error;
  }
}

describe("features of templates are as in Python", () => {
  const { variables, cases } = fixture("features") as {
    variables: Record<string, unknown>;
    cases: [string, Expected][];
  };
  test.each(cases)("%j", (template, expected) => check(template, variables, expected));
});

describe("chat templates render conversations as in Python", () => {
  const { inputs, templates } = fixture("chats") as {
    inputs: Record<string, Record<string, unknown>>;
    templates: { name: string; template: string; expected: Record<string, Expected> }[];
  };
  for (const { name, template, expected } of templates) {
    test.each(Object.entries(expected))(`${name}: %s`, (input, text) => {
      check(template, inputs[input] ?? {}, text);
    });
  }
});

describe("values of the caller", () => {
  test("whole numbers are ints, also those of a bigint", () => {
    const big = 2n ** 70n;
    expect(renderTemplate("{{ a }} {{ b }} {{ c }} {{ d }}", { a: 1, b: 1.5, c: big, d: -0 })).toBe(
      `1 1.5 ${big} 0`,
    );
  });

  test("fields that are undefined are absent", () => {
    expect(renderTemplate("{{ m }}{{ x is defined }}", { m: { a: undefined, b: null }, x: undefined })).toBe(
      "{'b': None}False",
    );
  });

  test("one object in two places is one value, one within itself is refused", () => {
    const shared = { a: 1 };
    expect(renderTemplate("{{ x is sameas y }}", { x: shared, y: shared })).toBe("True");
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    expect(() => renderTemplate("x", { circle })).toThrow("circle.self contains itself");
  });

  test.each([
    ["a function", () => 1, "v is a function"],
    ["a date", new Date(0), "v is a Date"],
    ["bytes", new Uint8Array(2), "v is a Uint8Array"],
    ["a map", new Map(), "v is a Map"],
    ["a symbol", Symbol("s"), "v is a symbol"],
  ])("%s is refused by name", (_what, v, message) => {
    expect(() => renderTemplate("x", { v })).toThrow(message);
  });

  test("stay as they are, whatever a template does", () => {
    const v = { list: [1], dict: { a: 1 } };
    for (const change of [
      "v.list.append(2)",
      "v.dict.update({'b': 2})",
      "v.dict.pop('a')",
      "v.list.sort()",
    ]) {
      expect(() => renderTemplate(`{{ ${change} }}`, { v })).toThrow("is unsafe");
    }
    expect(v).toEqual({ list: [1], dict: { a: 1 } });
  });
});

describe("nothing of JavaScript is in reach", () => {
  test.each(["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "__defineGetter__"])(
    "%s",
    (name) => {
      for (const value of ["x", "[]", "{}", "''", "1", "range", "namespace()", "x.items", "none"]) {
        expect(renderTemplate(`{{ (${value}).${name} is defined }}`, { x: { a: 1 } })).toBe("False");
        expect(renderTemplate(`{{ (${value})['${name}'] is defined }}`, { x: { a: 1 } })).toBe("False");
      }
      expect(renderTemplate(`{{ ${name} is defined }}`, {})).toBe("False");
      expect(renderTemplate(`{{ dict(${name}=1)['${name}'] }}`, {})).toBe("1");
      expect(renderTemplate(`{{ '{0.${name}}{0[${name}]}'.format('') }}`, {})).toBe("");
    },
  );
});

describe("limits", () => {
  test.each([
    ["loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"],
    [
      "macros that branch",
      "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
      "steps",
    ],
    [
      "texts that double",
      "{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      "characters",
    ],
    [
      "lists that double",
      "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "characters",
    ],
    [
      "values within themselves",
      "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
      "characters",
    ],
    ["ranges", "{{ range(10 ** 10) }}", "Range too big"],
    ["repetition", "{{ 'a' * 10 ** 9 }}", "characters"],
    ["padding", "{{ 'x'.center(10 ** 9) }}", "characters"],
    ["widths of %", "{{ '%0999999999d' % 1 }}", "characters"],
    ["places of %", "{{ '%.999999999f' % 1.5 }}", "places"],
    ["widths of format", "{{ '{:999999999}'.format(1) }}", "characters"],
    ["indentation", "{{ ('\\n' * 100000) | indent(100000, blank=true) }}", "characters"],
    ["replacement", "{{ ('a' * 1000000) | replace('a', 'b' * 1000) }}", "characters"],
    ["wrapping", "{{ ('a ' * 1000000) | wordwrap(1) }}", "characters"],
    ["JSON", "{{ [[1]] | tojson(indent=10 ** 9) }}", "characters"],
    ["powers", "{{ 9 ** (10 ** 9) }}", "exponent"],
    ["macros without an end", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "levels deep"],
    ["loops without an end", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "levels deep"],
    ["brackets", `{{ ${"(".repeat(9999)}1${")".repeat(9999)} }}`, "levels deep"],
    ["blocks", "{% if 1 %}".repeat(9999) + "{% endif %}".repeat(9999), "levels deep"],
    ["chains", `{{ ${"1 + ".repeat(50_000)}1 }}`, "nests too deeply"],
    ["sources", "x".repeat(1_000_000), "at most 500000 are allowed"],
  ])("%s end with an error", (_what, template, message) => {
    const error = thrown(() => renderTemplate(template, {}));
    expect(error).toBeInstanceOf(TemplateError);
    expect((error as Error).message).toContain(message);
  });

  test("grow with what the caller brings", () => {
    const text = "word ".repeat(2_000_000);
    expect(renderTemplate("{{ text | trim ~ text | upper | length }}", { text })).toHaveLength(9_999_999 + 8);
  });

  test("are the next render's own", () => {
    expect(() => renderTemplate("{{ 'a' * 10 ** 9 }}", {})).toThrow(TemplateError);
    expect(renderTemplate("{{ 'a' * 1000 }}", {})).toHaveLength(1000);
  });
});

describe("errors", () => {
  test("say their kind and line", () => {
    const refused = thrown(() => renderTemplate("\n{{ raise_exception('no') }}", {})) as TemplateError;
    expect([refused.kind, refused.message]).toEqual(["refused", "no"]);
    const failed = thrown(() => renderTemplate("a\nb{{ x.y }}", {})) as TemplateError;
    expect([failed.kind, failed.message, failed.line]).toEqual(["failed", "'x' is undefined (line 2)", 2]);
    const syntax = thrown(() => renderTemplate("\n\n{{ 1 | nosuch }}", {})) as TemplateError;
    expect([syntax.kind, syntax.message]).toEqual(["syntax", "No filter named 'nosuch'. (line 3)"]);
  });

  test.each(["include 'a'", "import 'a' as b", "extends 'a'", "from 'a' import b"])(
    "{%% %s %%} is refused by name",
    (tag) => {
      expect(() => renderTemplate(`{% ${tag} %}`, {})).toThrow(
        `the tag '${tag.split(" ")[0]}' loads another template`,
      );
    },
  );

  test("what has another text in every run is refused rather than printed", () => {
    for (const value of [
      "'a'.upper",
      "[1] | map('string')",
      "range.x or range",
      "[1] | random",
      "lipsum()",
    ]) {
      expect(() => renderTemplate(`{{ ${value} }}`, {})).toThrow(TemplateError);
    }
  });
});

describe("strftime", () => {
  test("writes dates as Python does in the C locale", () => {
    expect(strftime(now, "%d %b %Y|%d %B %y|%A %a|%H:%M:%S|%I %p|%m|%-d|%e|%j|100%%|%Q")).toBe(
      "05 Jul 2024|05 July 24|Friday Fri|14:03:09|02 PM|07|5| 5|187|100%|%Q",
    );
    expect(strftime(new Date(2024, 0, 1, 0, 0), "%I %p %U %W %V %G %u %w")).toBe("12 AM 00 01 01 2024 1 1");
  });
});

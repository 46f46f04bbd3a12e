import { describe, expect, it } from "vitest";
import { printable, shown } from "./shown.ts";

describe("printable", () => {
  it("escapes what a terminal obeys and leaves text alone", () => {
    expect(printable("a\tb\nздравствуй 世界 🙂 naïve")).toBe("a\tb\nздравствуй 世界 🙂 naïve");
    expect(printable("\x1b]52;c;ZXZpbA==\x07\x9b2J\r\x7f")).toBe(
      "\\u001b]52;c;ZXZpbA==\\u0007\\u009b2J\\u000d\\u007f",
    );
  });

  it("escapes marks that reverse the reading order, and separators of lines", () => {
    expect(printable("a\u202eb\u2066c\u200fd\u061ce\u2028f\ufeff")).toBe(
      "a\\u202eb\\u2066c\\u200fd\\u061ce\\u2028f\\ufeff",
    );
  });

  it("escapes halves of pairs, which no encoding can write", () => {
    expect(printable("a\ud800b\udc00c🙂")).toBe("a\\ud800b\\udc00c🙂");
  });

  it("cuts long text and says by how much", () => {
    expect(printable("a".repeat(100), 10)).toBe("aaaaaaaaaa… (90 more characters)");
    expect(printable("aaaa🙂", 5)).toBe("aaaa… (2 more characters)");
  });
});

describe("shown", () => {
  it("writes values as JSON does", () => {
    expect(shown({ a: [1, null, 'x"y'], b: true })).toBe('{"a": [1, null, "x\\"y"], "b": true}');
    expect(shown(undefined)).toBe("undefined");
    expect(shown(Number.NaN)).toBe("NaN");
    expect(shown(10n)).toBe("10n");
    expect(shown(() => 0)).toBe("a function");
    expect(shown(Symbol("x"))).toBe("Symbol(x)");
    expect(shown(new Map())).toBe("a value of Map");
  });

  it("is short and on one line, whatever the value", () => {
    expect(shown("a".repeat(1e7)).length).toBe(81);
    expect(shown("a\nb\tc\u001b")).toBe('"a\\nb\\tc\\u001b"');
    expect(shown(new Array(1e6).fill(0)).length).toBeLessThan(82);
    expect(
      shown(Object.fromEntries(Array.from({ length: 1e4 }, (_, i) => [`k${i}`, i]))).length,
    ).toBeLessThan(82);
  });

  it("does not overflow on deep or cyclic values", () => {
    let deep: unknown = 0;
    for (let i = 0; i < 100_000; i++) deep = [deep];
    expect(shown(deep)).toBe("[[[[[…]]]]]");
    const cyclic: Record<string, unknown> = {};
    cyclic.a = cyclic;
    expect(shown(cyclic)).toContain("…");
  });

  it("runs nothing of the value, and never throws", () => {
    let ran = false;
    const trap = {
      get a() {
        ran = true;
        return 1;
      },
      toJSON() {
        ran = true;
      },
    };
    expect(shown(trap)).toBe('{"a": …, "toJSON": a function}');
    expect(ran).toBe(false);
    const refusing = new Proxy(
      {},
      {
        ownKeys() {
          throw new Error("no");
        },
        getPrototypeOf() {
          throw new Error("no");
        },
      },
    );
    expect(shown(refusing)).toBe("an object");
  });
});

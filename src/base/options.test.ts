import { describe, expect, it } from "vitest";
import { ConfigError } from "./errors.ts";
import { nearest } from "./nearest.ts";
import { refuseUnknown } from "./options.ts";

describe("refuseUnknown", () => {
  const known = ["max_memory", "device", "dtype"];

  it("takes what is known, and nothing", () => {
    expect(() => refuseUnknown({ max_memory: {}, dtype: undefined }, known, "f")).not.toThrow();
    expect(() => refuseUnknown({}, known, "f")).not.toThrow();
  });

  it("names the unknown option and the one that was meant", () => {
    expect(() => refuseUnknown({ max_memmory: {} }, known, "from_pretrained")).toThrow(
      new ConfigError("max_memmory is no option of from_pretrained; did you mean max_memory?"),
    );
    expect(() => refuseUnknown({ maxMemory: {} }, known, "f")).toThrow("did you mean max_memory?");
    expect(() => refuseUnknown({ colour: undefined }, known, "f")).toThrow(
      "colour is no option of f; it takes device, dtype, max_memory",
    );
  });

  it("says what other libraries' names are called here", () => {
    const elsewhere = { max_tokens: "here it is called max_new_tokens" };
    expect(() => refuseUnknown({ max_tokens: 3 }, known, "generate", elsewhere)).toThrow(
      "max_tokens is no option of generate; here it is called max_new_tokens",
    );
  });

  it("refuses what is no object", () => {
    for (const odd of [null, undefined, 5, "x", []]) {
      expect(() => refuseUnknown(odd, known, "f")).toThrow(ConfigError);
    }
  });
});

describe("nearest", () => {
  it("finds mistyped, swapped and differently separated names", () => {
    expect(nearest("tempratuer", ["temperature", "top_p"])).toBe("temperature");
    expect(nearest("top-p", ["temperature", "top_p"])).toBe("top_p");
    expect(nearest("zzz", ["temperature", "top_p"])).toBeUndefined();
    expect(nearest("x".repeat(1e6), ["temperature"])).toBeUndefined();
  });
});

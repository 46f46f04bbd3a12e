import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { StopStrings } from "./stopping.ts";

/** Everything that is emitted for these pieces, and the stop string hit. */
function run(stops: string[], pieces: string[]): { text: string; stop: string | undefined } {
  const strings = new StopStrings(stops);
  let text = "";
  for (const piece of pieces) {
    const result = strings.push(piece);
    text += result.text;
    if (result.stop !== undefined) return { text, stop: result.stop };
  }
  return { text: text + strings.flush(), stop: undefined };
}

/** The definition: look after every character whether the text ends in a stop string; the longest one counts. */
function reference(stops: string[], whole: string): { text: string; stop: string | undefined } {
  for (let end = 1; end <= whole.length; end++) {
    const hits = stops.filter((stop) => whole.slice(0, end).endsWith(stop));
    if (hits.length === 0) continue;
    const stop = hits.reduce((a, b) => (b.length > a.length ? b : a));
    return { text: whole.slice(0, end - stop.length), stop };
  }
  return { text: whole, stop: undefined };
}

describe("StopStrings", () => {
  test("cuts the text before a stop string that spans pieces", () => {
    expect(run(["\n\nUser:"], ["Hello.", "\n", "\nUs", "er: hi"])).toEqual({
      text: "Hello.",
      stop: "\n\nUser:",
    });
  });

  test("holds back only what could still become a stop string, and lets go as soon as it cannot", () => {
    const strings = new StopStrings(["abcd"]);
    expect(strings.push("xyab")).toEqual({ text: "xy", stop: undefined });
    expect(strings.push("c")).toEqual({ text: "", stop: undefined });
    expect(strings.push("a")).toEqual({ text: "abc", stop: undefined });
    expect(strings.push("")).toEqual({ text: "", stop: undefined });
    expect(strings.flush()).toBe("a");
  });

  test("finds a stop string that begins inside a failed one", () => {
    expect(run(["aab"], ["aa", "ab"])).toEqual({ text: "a", stop: "aab" });
  });

  test("the first to be complete wins, the longest of those that end together", () => {
    expect(run(["bc", "abcd"], ["abcd"])).toEqual({ text: "a", stop: "bc" });
    expect(run(["User:", "\nUser:"], ["hi\nUser:"])).toEqual({ text: "hi", stop: "\nUser:" });
  });

  test("says nothing more after a hit", () => {
    const strings = new StopStrings(["."]);
    expect(strings.push("a.b")).toEqual({ text: "a", stop: "." });
    expect(strings.push("c")).toEqual({ text: "", stop: "." });
    expect(strings.stopped).toBe(".");
    expect(strings.flush()).toBe("");
  });

  test("without stop strings lets everything through at once", () => {
    expect(new StopStrings([]).push("text")).toEqual({ text: "text", stop: undefined });
  });

  test("can be used again after flush", () => {
    const strings = new StopStrings(["ab"]);
    strings.push("a");
    expect(strings.flush()).toBe("a");
    expect(strings.push("b")).toEqual({ text: "b", stop: undefined });
  });

  test("refuses stop strings that would stop everywhere or nowhere", () => {
    expect(() => new StopStrings(["a", ""])).toThrow(ConfigError);
    expect(() => new StopStrings(["a", ""])).toThrow("stop string 1 is empty");
    expect(() => new StopStrings([3 as unknown as string])).toThrow("stop string 0 is a number");
  });

  test("agrees with the definition however the text is divided", () => {
    // Few letters, so that stop strings occur, overlap and nest
    const word = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 5 });
    const pieces = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c", "🙂"), maxLength: 4 }), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(fc.array(word, { maxLength: 4 }), pieces, (stops, parts) => {
        expect(run(stops, parts)).toEqual(reference(stops, parts.join("")));
      }),
      { numRuns: 1000 },
    );
  });

  test("never emits text too early nor holds it too long", () => {
    const word = fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(
        fc.array(word, { minLength: 1, maxLength: 3 }),
        fc.array(word, { maxLength: 8 }),
        (stops, parts) => {
          const strings = new StopStrings(stops);
          let seen = "";
          let emitted = "";
          for (const part of parts) {
            const result = strings.push(part);
            seen += part;
            emitted += result.text;
            if (result.stop !== undefined) return;
            const held = seen.slice(emitted.length);
            const couldBecomeStop = (end: string) =>
              stops.some((stop) => stop.length > end.length && stop.startsWith(end));
            expect(held === "" || couldBecomeStop(held)).toBe(true);
            for (let longer = held.length + 1; longer <= seen.length; longer++) {
              expect(couldBecomeStop(seen.slice(-longer))).toBe(false);
            }
          }
        },
      ),
    );
  });
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { jsonMembers } from "./json-members.ts";

const members = (text: string) => [...jsonMembers(text, (problem) => new SyntaxError(`it ${problem}`))];

describe("jsonMembers", () => {
  test("delimits values without reading them", () => {
    expect(members(` { "a" : [1, {"}": "]"}] ,\n"b":"x\\"y" , "c":-1.5e3}  `)).toEqual([
      { key: "a", text: `[1, {"}": "]"}]` },
      { key: "b", text: `"x\\"y"` },
      { key: "c", text: "-1.5e3" },
    ]);
    expect(members("{}")).toEqual([]);
    expect(members(`{"__proto__":null}`)).toEqual([{ key: "__proto__", text: "null" }]);
  });

  test("gives the members that JSON.parse gives, for every object", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue()),
        fc.constantFrom(undefined, 1, "\t"),
        (value, indent) => {
          const text = JSON.stringify(value, null, indent);
          const read = members(text).map(({ key, text }) => [key, JSON.parse(text)]);
          expect(Object.fromEntries(read)).toEqual(JSON.parse(text));
          expect(read.length).toBe(Object.keys(value).length);
        },
      ),
    );
  });

  test.each([
    [`{"a":1,"a":2}`, `it has "a" twice`],
    [`{"a":1,"\\u0061":2}`, `it has "a" twice`],
    [`{"a":{"b":1},"c":2,"a":3}`, `it has "a" twice`],
    [`[]`, `it has "[" at character 0 where an object was expected`],
    [``, "it ends at character 0 where an object was expected"],
    [`{`, "it ends at character 1 where a quoted key was expected"],
    [`{"a"`, `it ends at character 4 where ":" was expected`],
    [`{"a`, "it has a key at character 1 that is not a valid string"],
    [`{"\\x":1}`, "it has a key at character 1 that is not a valid string"],
    [`{"a":}`, `it has "}" at character 5 where a value was expected`],
    [`{"a":1 2}`, `it has "2" at character 7 where "," or "}" was expected`],
    [`{"a":1,}`, `it has "}" at character 7 where a quoted key was expected`],
    [`{"a":[1}`, `it ends at character 8 where "," or "}" was expected`],
    [`{} {}`, `it has "{" at character 3 where the end was expected`],
  ])("%s: %s", (text, message) => {
    expect(() => members(text)).toThrow(message);
  });

  test("a key may come back at another depth", () => {
    expect(members(`{"a":{"a":1}}`)).toEqual([{ key: "a", text: `{"a":1}` }]);
  });

  test("depth costs nothing", () => {
    const text = `{"a":${"[".repeat(1e6)}${"]".repeat(1e6)}}`;
    expect(members(text)[0]?.text.length).toBe(2e6);
  });
});

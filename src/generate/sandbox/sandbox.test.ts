import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { afterAll, describe, expect, test } from "vitest";
import { AbortError, CheckpointError, ConfigError } from "../../base/errors.ts";
import { AutoTokenizer } from "../text/tokenizer.ts";
import { Channel } from "./channel.ts";
import { SandboxFailure } from "./failure.ts";
import type { Request } from "./protocol.ts";
import { Sandbox } from "./sandbox.ts";

const folder = mkdtempSync(join(tmpdir(), "spillway-sandbox-"));
afterAll(() => rmSync(folder, { recursive: true }));
const fixture = join(import.meta.dirname, "../../../test/fixtures/checkpoints/llama/tokenizer.json");

let made = 0;
/** A folder with the fixture's tokenizer, changed. */
function changed(change: Record<string, unknown>, config = {}): string {
  const dir = mkdtempSync(join(folder, `${made++}-`));
  writeFileSync(
    join(dir, "tokenizer.json"),
    JSON.stringify({ ...JSON.parse(readFileSync(fixture, "utf8")), ...change }),
  );
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify(config));
  return dir;
}

const ENDLESS = {
  pre_tokenizer: { type: "Split", pattern: { Regex: "(a+)+$" }, behavior: "Isolated", invert: false },
};
const HARD = `${"a".repeat(60)}!`;
const LOOPS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";

describe("what runs for ever", () => {
  test("a regex ends as an error that names the file, asked for with and without waiting", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(changed(ENDLESS));
    expect(() => tokenizer.encode(HARD)).toThrow(CheckpointError);
    await expect(tokenizer.encode_async(HARD)).rejects.toThrow(
      /tokenizer\.json: failed on a text of 61 characters: .*not done after 5\.1? ?/,
    );
    // The next text finds a new thread, which reads the tokenizer again.
    expect(tokenizer.decode(tokenizer.encode("b"))).toBe("b");
  });

  test("timers run meanwhile, and a signal ends it at once", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(changed(ENDLESS));
    const controller = new AbortController();
    const encoding = tokenizer.encode_async(HARD, { signal: controller.signal });
    let ticks = 0;
    const timer = setInterval(() => {
      if (++ticks === 3) controller.abort(new Error("enough"));
    }, 10);
    await expect(encoding).rejects.toThrow(AbortError);
    clearInterval(timer);
    await expect(tokenizer.encode_async("b", { signal: controller.signal })).rejects.toThrow(AbortError);
  });

  test("loops of a template end as a ConfigError, those behind it are rendered", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(changed({}, { chat_template: LOOPS }));
    const endless = tokenizer.apply_chat_template_async([]);
    const other = tokenizer.apply_chat_template_async([{ role: "user", content: "hi" }], {
      chat_template: "{{ messages[0].content }}",
    });
    await expect(endless).rejects.toThrow(ConfigError);
    expect(await other).toBe("hi");
  });
});

describe("what takes all memory", () => {
  test("a template ends as a ConfigError", async () => {
    const growing =
      "{% set ns = namespace(x=[1,2,3,4], l=[]) %}{% for i in range(22) %}{% set ns.x = ns.x + ns.x %}{% endfor %}" +
      "{% for i in range(200) %}{% set ns.l = ns.l + [ns.x + [i]] %}{% endfor %}";
    const tokenizer = await AutoTokenizer.from_pretrained(changed({}, { chat_template: growing }));
    await expect(tokenizer.apply_chat_template_async([])).rejects.toThrow(ConfigError);
  });

  test("texts that are too long, or become so, are refused before they are made", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(changed({}));
    await expect(tokenizer.encode_async("a".repeat(2 ** 24 + 1))).rejects.toThrow(
      "a text of 16777217 characters is longer than the 16777216 that can be tokenized at once",
    );
    await expect(tokenizer.encode_async("a b".repeat(2 ** 21))).rejects.toThrow("more than 2097152 words");
    const prefix = "x".repeat(1_000_000);
    for (const normalizer of [
      { type: "Prepend", prepend: prefix },
      { type: "Replace", pattern: { String: "a" }, content: prefix },
      { type: "Sequence", normalizers: [{ type: "Prepend", prepend: prefix }, { type: "Lowercase" }] },
    ]) {
      const growing = await AutoTokenizer.from_pretrained(changed({ normalizer, added_tokens: [] }));
      await expect(growing.encode_async("a")).rejects.toThrow(
        /makes a text of 100000\d or more characters of one of 1, at most 65568 are allowed/,
      );
    }
  });

  test("normalizers that grow a text without bound end as a CheckpointError", async () => {
    const normalizers = Array.from({ length: 40 }, () => ({
      type: "Replace",
      pattern: { String: "a" },
      content: "aa",
    }));
    const tokenizer = await AutoTokenizer.from_pretrained(
      changed({ normalizer: { type: "Sequence", normalizers } }),
    );
    await expect(tokenizer.encode_async("aaaa")).rejects.toThrow(CheckpointError);
    expect(await tokenizer.encode_async("b")).toHaveLength(1);
  });

  test("a thread that has gone is seen although the event loop is held up", async () => {
    const replies: unknown[] = [];
    let begun = () => {};
    const ready = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const onReply = (reply: unknown) => {
      replies.push(reply);
      begun();
    };
    const channel = new Channel(64, { onReply, onEnd: () => {} });
    try {
      await ready;
      expect(channel.gone).toBe(false);
      // Not a request: an error that nothing in the thread catches.
      channel.send(null as unknown as Request);
      expect(channel.wait(() => replies.length > 1, 60_000)).toBe(false);
      expect(channel.gone).toBe(true);
    } finally {
      await channel.terminate();
    }
  }, 30_000);
});

describe("limits of the caller", () => {
  test("a text that certainly has too many tokens is refused without tokenizing it", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(changed({}));
    const text = "a".repeat(10_000_000);
    expect(() => tokenizer.encode(text, { max_tokens: 2048 })).toThrow(
      /the text of 10000000 characters has at least \d+ tokens, more than the 2048 that can be used/,
    );
    await expect(tokenizer.encode_async("a b c d", { max_tokens: 2 })).rejects.toThrow(
      "has at least 3 tokens, more than the 2 that can be used",
    );
  });

  test("a file that has changed is not read again in the place of the one that was opened", async () => {
    const dir = changed(ENDLESS);
    const tokenizer = await AutoTokenizer.from_pretrained(dir);
    writeFileSync(join(dir, "tokenizer.json"), readFileSync(fixture, "utf8"));
    const controller = new AbortController();
    const encoding = tokenizer.encode_async(HARD, { signal: controller.signal });
    controller.abort();
    await expect(encoding).rejects.toThrow(AbortError);
    await expect(tokenizer.encode_async("a")).rejects.toThrow("has changed since the tokenizer was opened");
  });
});

test("names that flags of the process make are no matter to the thread", () => {
  // With --expose-gc every thread has a gc that nothing else may be called.
  setFlagsFromString("--expose-gc");
  try {
    const own = new Sandbox();
    expect(own.runSync("render", { template: "{{ x }}", variables: { x: "a" } })).toBe("a");
    return own.end();
  } finally {
    setFlagsFromString("--no-expose-gc");
  }
});

test("a failure says what kind it is", () => {
  const own = new Sandbox();
  try {
    own.runSync("render", { template: "{{ raise_exception('no') }}", variables: {} });
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(SandboxFailure);
    expect(error).toMatchObject({ kind: "refused", message: "no", isLimit: false });
  }
  expect(own.runSync("render", { template: "{{ x }}", variables: { x: "a" } })).toBe("a");
  expect(() => own.runSync("render", { template: "", variables: { f: () => 1 } })).toThrow(
    "could not be cloned",
  );
});

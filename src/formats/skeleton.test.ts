import { describe, expect, test } from "vitest";
import { CheckpointError } from "../base/errors.ts";
import { type Checkpoint, checkSkeleton, openCheckpoint } from "./index.ts";
import { fixture } from "./testing.ts";

const FILE = "/models/m/model.safetensors";

/** A checkpoint with tensors of these shapes. */
function checkpoint(shapes: Record<string, number[]>): Checkpoint {
  const entries = Object.entries(shapes).map(([name, shape]) => {
    return [name, { name, dtype: "f32", shape, file: 0, offset: 0, bytes: 0 }] as const;
  });
  return {
    path: "/models/m",
    format: "safetensors",
    files: [{ path: FILE, size: 0, mtimeMs: 0 }],
    tensors: new Map(entries),
    metadata: {},
  };
}

function problem(check: () => void): CheckpointError {
  try {
    check();
  } catch (error) {
    if (error instanceof CheckpointError) return error;
    throw error;
  }
  throw new Error("nothing was found wrong");
}

describe("checkSkeleton", () => {
  test("is content when names and shapes are the config's", async () => {
    const real = await openCheckpoint(fixture("llama"));
    const expected = [...real.tensors.values()].map(({ name, shape }) => ({ name, shape }));
    expect(() => checkSkeleton(real, expected)).not.toThrow();
  });

  test("optional tensors may be absent, but not misshapen", () => {
    const expected = [{ name: "lm_head.weight", shape: [8, 4], optional: true }];
    expect(() => checkSkeleton(checkpoint({}), expected)).not.toThrow();
    expect(() => checkSkeleton(checkpoint({ "lm_head.weight": [8, 4] }), expected)).not.toThrow();
    expect(() => checkSkeleton(checkpoint({ "lm_head.weight": [4, 8] }), expected)).toThrow("is [4,8]");
  });

  test("tensors that match an ignored pattern need not be expected", () => {
    const holds = checkpoint({ "h.0.attn.bias": [1, 1, 4, 4], "h.1.attn.bias": [1, 1, 4, 4] });
    expect(() => checkSkeleton(holds, [], { ignore: [/^h\.\d+\.attn\.bias$/g] })).not.toThrow();
    expect(() => checkSkeleton(holds, [], { ignore: [/^h\.0\./] })).toThrow("h.1.attn.bias [1,1,4,4]");
  });

  test.each([
    ["missing", {}, [{ name: "w", shape: [2, 3] }], "1 is missing\n  w [2,3] is missing", "/models/m"],
    [
      "misshapen",
      { w: [3, 2] },
      [{ name: "w", shape: [2, 3] }],
      "w is [3,2] in model.safetensors, the config",
      undefined,
    ],
    [
      "of another rank",
      { w: [6] },
      [{ name: "w", shape: [2, 3] }],
      "w is [6] in model.safetensors, the config",
      undefined,
    ],
    ["unexpected", { w: [1] }, [], "w [1] in model.safetensors is not part of the model", undefined],
  ])(
    "one tensor that is %s is named with its file",
    (_, shapes, expected, message, file = "model.safetensors") => {
      const error = problem(() => checkSkeleton(checkpoint(shapes), expected));
      expect(error.message).toContain(message);
      expect(error.tensor).toBe("w");
      expect(error.file).toBe(file);
    },
  );

  test("everything that is wrong is in one error: eight lines, then a count", () => {
    const extra = Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`extra.${i}`, [1]]));
    const absent = Array.from({ length: 4 }, (_, i) => ({ name: `absent.${i}`, shape: [2] }));
    const error = problem(() =>
      checkSkeleton(checkpoint({ ...extra, w: [3] }), [{ name: "w", shape: [4] }, ...absent]),
    );
    const [first, ...lines] = error.message.split("\n");
    expect(first).toBe(
      "/models/m: the tensors do not fit config.json: 1 has another shape, 4 are missing, 6 are not part of the model",
    );
    expect(lines.length).toBe(9);
    expect(lines.at(-1)).toBe("  and 3 more");
  });
});

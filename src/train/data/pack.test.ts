import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Example, exampleOf, IGNORE_INDEX } from "./example.ts";
import { type PackOptions, type Sequence, SequencePacker } from "./pack.ts";

/** Documents of these lengths; token t of document d is 100 * d + t. All but the first token of each are learned. */
function documents(...lengths: number[]): Example[] {
  return lengths.map((length, d) =>
    exampleOf(
      Array.from({ length }, (_, t) => 100 * d + t),
      [[0, length]],
    ),
  );
}

async function pack(examples: readonly Example[], options: Partial<PackOptions> = {}): Promise<Sequence[]> {
  let position = 0;
  const packer = new SequencePacker(
    { max_length: 10, look_ahead: 32, packing: true, ...options },
    async () => {
      const example = examples[position];
      return example && { position: position++, example };
    },
  );
  const sequences: Sequence[] = [];
  for (;;) {
    const sequence = await packer.pack();
    if (sequence === undefined) return sequences;
    sequences.push(sequence);
  }
}

/** The documents in each sequence, by number, and their lengths. */
const shape = (sequences: readonly Sequence[]) =>
  sequences.map(({ input_ids, lengths }) => {
    let at = 0;
    return lengths.map((length) => {
      const document = Math.floor(input_ids[at]! / 100);
      at += length;
      return `${document}:${length}`;
    });
  });

describe("Packer", () => {
  test("tells for each token its document, and its position in it; the first of a document is not predicted", async () => {
    const [sequence, ...rest] = await pack(documents(3, 4));
    expect(rest).toEqual([]);
    expect(sequence).toEqual({
      input_ids: [0, 1, 2, 100, 101, 102, 103],
      labels: [IGNORE_INDEX, 1, 2, IGNORE_INDEX, 101, 102, 103],
      positions: [0, 1, 2, 0, 1, 2, 3],
      document_ids: [0, 0, 0, 1, 1, 1, 1],
      lengths: [3, 4],
    });
  });

  test("takes the first documents that fit, in order; those passed over come first in the next", async () => {
    expect(shape(await pack(documents(4, 9, 5, 8, 2, 3)))).toEqual([
      ["0:4", "2:5"],
      ["1:9"],
      ["3:8", "4:2"],
      ["5:3"],
    ]);
  });

  test("passes over no more than look_ahead documents", async () => {
    const lengths = [4, 9, 9, 9, 6, 2];
    expect(shape(await pack(documents(...lengths), { look_ahead: 3 }))[0]).toEqual(["0:4", "4:6"]);
    expect(shape(await pack(documents(...lengths), { look_ahead: 2 }))[0]).toEqual(["0:4"]);
    const inOrder = shape(await pack(documents(...lengths), { look_ahead: 0 })).flat();
    expect(inOrder).toEqual(["0:4", "1:9", "2:9", "3:9", "4:6", "5:2"]);
  });

  test("without packing, a sequence for each document", async () => {
    expect(shape(await pack(documents(3, 12, 2), { packing: false }))).toEqual([
      ["0:3"],
      ["1:10"],
      ["1:3"],
      ["2:2"],
    ]);
  });

  test("a long document is split; the last token of a piece is given again, so that the next token is predicted", async () => {
    const [first, second, third] = await pack(documents(23));
    expect(first!.input_ids).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(second!.input_ids).toEqual([9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
    expect(second!.labels).toEqual([IGNORE_INDEX, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
    expect(second!.positions[0]).toBe(0);
    expect(third!.input_ids).toEqual([18, 19, 20, 21, 22]);
  });

  test("the rest of a long document shares its sequence with the next documents", async () => {
    expect(shape(await pack(documents(12, 6, 4)))).toEqual([["0:10"], ["0:3", "1:6"], ["2:4"]]);
  });

  test("a document as long as the sequence is not split, one longer by a token is", async () => {
    expect(shape(await pack(documents(10, 11)))).toEqual([["0:10"], ["1:10"], ["1:2"]]);
  });

  test("documents, and pieces of documents, with nothing to learn are left out", async () => {
    const longPrompt = exampleOf(documents(25)[0]!.input_ids, [[20, 25]]); // its first piece [0, 10) and second [9, 19) are prompt
    const sequences = await pack([...documents(1, 0), longPrompt, ...documents(0, 0, 0, 3).slice(3)]);
    expect(shape(sequences)).toEqual([["0:7", "3:3"]]);
    expect(sequences[0]!.input_ids[0]).toBe(18);
    expect(await pack([exampleOf([1, 2, 3], [])])).toEqual([]);
  });

  test("whatever the lengths: every token but a document's first is predicted once, from the token before it", async () => {
    const options = fc.record({
      max_length: fc.integer({ min: 2, max: 40 }),
      look_ahead: fc.nat(6),
      packing: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(60), { maxLength: 40 }), options, async (lengths, settings) => {
        const sequences = await pack(documents(...lengths), settings);
        const learned: number[] = [];
        for (const { input_ids, labels, positions, document_ids, lengths: parts } of sequences) {
          expect(input_ids.length).toBeLessThanOrEqual(settings.max_length);
          expect(parts.reduce((a, b) => a + b, 0)).toBe(input_ids.length);
          expect([labels.length, positions.length, document_ids.length]).toEqual(
            Array(3).fill(input_ids.length),
          );
          for (const [i, label] of labels.entries()) {
            const begins = i === 0 || document_ids[i] !== document_ids[i - 1];
            expect(positions[i]).toBe(begins ? 0 : positions[i - 1]! + 1);
            if (label === IGNORE_INDEX) {
              expect(begins).toBe(true);
              continue;
            }
            expect(label).toBe(input_ids[i]);
            expect(input_ids[i - 1]).toBe(label - 1); // the same document, one token earlier
            learned.push(label);
          }
        }
        const all = lengths.flatMap((length, d) =>
          Array.from({ length: Math.max(0, length - 1) }, (_, t) => 100 * d + t + 1),
        );
        expect(learned.sort((a, b) => a - b)).toEqual(all);
      }),
      { numRuns: 200 },
    );
  });
});

import { join } from "node:path";
import { expect, test } from "vitest";
import { rejection, temporaryFolder } from "../../formats/testing.ts";
import { freeBytes, RoomError, requireRoom } from "./room.ts";

const shown = (bytes: number) => `${bytes} B`;

test("what fits is fine, in folders that do not exist yet too", async () => {
  const dir = temporaryFolder();
  await requireRoom([{ path: join(dir, "a", "b"), bytes: 1, what: "a note" }], shown);
  await requireRoom([], shown);
});

test("outputs of one file system are counted together", async () => {
  const dir = temporaryFolder();
  const free = (await freeBytes(dir))!;
  const half = Math.ceil(free * 0.6);
  await requireRoom([{ path: join(dir, "a"), bytes: half, what: "the checkpoints" }], shown);
  const both = [
    { path: join(dir, "a"), bytes: half, what: "the checkpoints" },
    { path: join(dir, "b"), bytes: half, what: "the export" },
  ];
  const error = (await rejection(requireRoom(both, shown, "keep fewer"))) as RoomError;
  expect(error).toBeInstanceOf(RoomError);
  expect(error.code).toBe("io");
  expect(error.needed).toBe(2 * half);
  expect(error.message).toMatch(
    /the checkpoints \d+ B, the export \d+ B \(.*b\): \d+ bytes .* has \d+ bytes free .*; keep fewer/,
  );
});

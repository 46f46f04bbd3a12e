// Room on disk that a run needs from here on: its checkpoints, its logs, and what its caller writes at its end.
import { type RoomRequest, requireRoom } from "../../base/files/room.ts";
import { formatBytes } from "../../memory/sizes.ts";
import { listCheckpoints } from "../checkpoints/index.ts";
import type { FitSettings } from "../fit/fit-options.ts";

/** Bytes of a line of log.jsonl and of the TensorBoard events of a step, generously. */
const LOGGED = 2048;

/** Steps of a run: made before, and to be made in all. */
interface Steps {
  readonly done: number;
  readonly total: number;
}

/**
 * Throws RoomError where the disk has no room for the checkpoints that are there at once, and `beside` them: before the
 * first step rather than when the first save fails. Saves that `keep_best` adds are not foreseen without `keep`.
 */
export async function requireRunRoom(
  settings: FitSettings,
  checkpoint: number,
  steps: Steps,
  beside: readonly RoomRequest[],
): Promise<void> {
  const left = Math.max(0, steps.total - steps.done);
  if (left === 0) return;
  const there = (await listCheckpoints(settings.checkpoints)).length;
  const count = moreCheckpoints(settings, steps, there);
  const checkpoints = {
    path: settings.checkpoints,
    bytes: count * checkpoint,
    what: count === 1 ? "a checkpoint" : `${count} checkpoints`,
  };
  const logs = settings.log ?? settings.tensorboard;
  const requests = [
    checkpoints,
    ...(logs === undefined ? [] : [{ path: logs, bytes: left * LOGGED, what: "logs" }]),
    ...beside,
  ];
  const fewer = settings.keep === undefined && count > 1 ? ", or keep fewer checkpoints (keep, --keep)" : "";
  await requireRoom(requests, formatBytes, `free some, or name another folder${fewer}`);
}

/** The most checkpoints that there will be at once, beyond those that are there. The next is whole before an old one goes. */
export function moreCheckpoints(
  { save_steps, keep, keep_best }: Pick<FitSettings, "save_steps" | "keep" | "keep_best">,
  { done, total }: Steps,
  there: number,
): number {
  const regular = Math.floor(total / save_steps) - Math.floor(done / save_steps);
  const saves = regular + (total % save_steps === 0 ? 0 : 1);
  if (keep === undefined) return saves;
  const kept = keep + (keep_best ? 1 : 0);
  let alive = there;
  let most = there;
  for (let save = 0; save < saves && save <= kept; save++) {
    alive++;
    most = Math.max(most, alive);
    alive = Math.min(alive, kept);
  }
  return Math.max(1, most - there);
}

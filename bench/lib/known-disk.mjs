// A disk of known speed (known-disk.sh) with a life cycle: whatever ends this process, short of SIGKILL, takes the disk down.
// Needs root, loop devices and version 1 of the blkio and memory cgroups.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { killChildren } from "./child.mjs";
import { round } from "./results.mjs";

const SCRIPT = fileURLToPath(new URL("../known-disk.sh", import.meta.url));
const BLKIO = "/sys/fs/cgroup/blkio";
const MEMORY = "/sys/fs/cgroup/memory";

/** @param {string[]} programs */
function missing(programs) {
  const absent = programs.filter((name) => spawnSync("sh", ["-c", `command -v ${name}`]).status !== 0);
  return absent.length ? `needs ${absent.join(", ")}` : undefined;
}

/**
 * Why this machine cannot limit the memory of a run and drop the page cache, or undefined if it can.
 * @returns {string | undefined}
 */
export function whyNoLimits() {
  if (process.platform !== "linux") return `needs Linux, this is ${process.platform}`;
  if (process.getuid?.() !== 0)
    return "needs root, to set up cgroups and file systems and to drop the page cache";
  for (const file of [`${BLKIO}/cgroup.procs`, `${MEMORY}/cgroup.procs`])
    if (!existsSync(file)) return `needs version 1 of the blkio and memory cgroups: there is no ${file}`;
  return missing(["bash", "md5sum"]);
}

/**
 * Why this machine cannot have a disk of known speed, or undefined if it can.
 * @returns {string | undefined}
 */
export function whyNoKnownDisk() {
  const loop = existsSync("/dev/loop-control")
    ? undefined
    : "needs loop devices: there is no /dev/loop-control";
  return whyNoLimits() ?? loop ?? missing(["mount", "umount", "losetup", "mkfs.ext4", "findmnt"]);
}

/** Bytes of RAM that can still be used without swapping. */
export function availableMemory() {
  return 1024 * Number(/^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]);
}

/** @param {string[]} args @returns {{ ok: boolean, message: string }} */
function script(...args) {
  const { status, stdout, stderr, error } = spawnSync("bash", [SCRIPT, ...args], { encoding: "utf8" });
  return { ok: status === 0, message: error?.message ?? `${stderr}${stdout}`.trim() };
}

/** @param {string[]} args */
function must(...args) {
  const { ok, message } = script(...args);
  if (!ok) throw new Error(`known-disk.sh ${args.join(" ")}: ${message || "failed"}`);
}

/** The blkio group that known-disk.sh uses for a directory. @param {string} dir */
const blkioGroup = (dir) => `${BLKIO}/known-disk-${createHash("md5").update(dir).digest("hex").slice(0, 8)}`;

/** @param {string} dir */
const mounted = (dir) => spawnSync("findmnt", ["-n", dir]).status === 0;

/** @param {string[]} dirs */
function removeDirs(...dirs) {
  for (const dir of dirs) {
    try {
      rmdirSync(dir);
    } catch {
      // not there, or not ours: it has something in it
    }
  }
}

/** `run --mem` names its group after its shell and removes it at the end; one that was killed could not. */
function removeMemoryGroups() {
  killChildren();
  for (const name of readdirSync(MEMORY)) {
    const pid = /^known-disk-(\d+)$/.exec(name)?.[1];
    if (pid && !isAlive(pid)) removeDirs(`${MEMORY}/${name}`); // fails while a process is in it
  }
}

/** @param {string} pid a child we killed is a zombie for as long as we live, which is not alive */
function isAlive(pid) {
  try {
    return !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Waits without the event loop, which is gone in an exit handler. @param {number} milliseconds */
const pause = (milliseconds) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

/** Forgets the page cache, so that the next run reads from the disk. */
export const dropCaches = () => must("drop");

/** Where runs read from: a command run `within` it sees its speed and, if given, a limit of memory in MiB. */
export class Disk {
  /** @param {string} dir */
  constructor(dir) {
    this.dir = dir;
  }
  /**
   * @param {string[]} command
   * @param {{ memoryMib?: number }} [limits] page cache counts
   * @returns {string[]}
   */
  within(command, { memoryMib } = {}) {
    return ["bash", SCRIPT, "run", this.dir, ...(memoryMib ? ["--mem", String(memoryMib)] : []), ...command];
  }
}

/** The machine's own disk: no cap unless one is set, and the limit of memory. */
export class OwnDisk extends Disk {
  /** @param {string} dir */
  constructor(dir) {
    super(dir);
    mkdirSync(blkioGroup(dir), { recursive: true }); // `run` wants the group; one without a cap changes nothing
    process.on("exit", () => {
      killChildren();
      pause(500); // a group can go once the last process in it has
      removeMemoryGroups();
      removeDirs(blkioGroup(dir));
    });
  }

  /** Caps reads and writes, each for itself. Throws where the device of the directory takes no cap. @param {number} mibPerSecond */
  rate(mibPerSecond) {
    const { dev } = statSync(this.dir);
    const device = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
    for (const way of ["read", "write"]) {
      const file = `${blkioGroup(this.dir)}/blkio.throttle.${way}_bps_device`;
      try {
        writeFileSync(file, `${device} ${mibPerSecond * 2 ** 20}`);
      } catch (error) {
        throw new Error(`the speed of ${this.dir}, on device ${device}, cannot be capped`, { cause: error });
      }
    }
  }
}

/** A disk in RAM with a cap on its reads and writes. */
export class KnownDisk extends Disk {
  #up = true;

  /**
   * @param {{ sizeGib: number, mibPerSecond: number }} options
   */
  constructor({ sizeGib, mibPerSecond }) {
    // one per process: the script names the mount and the cgroup after the directory
    super(path.join(os.tmpdir(), `spillway-known-disk-${process.pid}`));
    process.on("exit", () => this.down());
    must("up", this.dir, String(sizeGib), String(mibPerSecond)); // may fail half-way; down() clears that too
  }

  /** @param {number} mibPerSecond */
  rate(mibPerSecond) {
    must("rate", this.dir, String(mibPerSecond));
  }

  /** Unmounts and frees it; safe to call twice. Ends running children first, as they may hold it. */
  down() {
    if (!this.#up) return;
    killChildren();
    for (let attempt = 0; attempt < 40; attempt++) {
      if (this.#takeApart()) {
        this.#up = false;
        return;
      }
      pause(250); // a killed child lets go of it soon
    }
    console.error(
      `${this.dir} is still mounted; once nothing uses it: bash bench/known-disk.sh down ${this.dir}`,
    );
    this.#up = false;
  }

  /** @returns {boolean} nothing of it is left */
  #takeApart() {
    const ram = `${this.dir}.ram`;
    if (mounted(this.dir)) script("down", this.dir);
    else if (mounted(ram)) {
      const loop = spawnSync("losetup", ["-n", "-O", "NAME", "-j", `${ram}/image`], {
        encoding: "utf8",
      }).stdout.trim();
      if (loop) spawnSync("losetup", ["-d", loop]);
      spawnSync("umount", [ram]);
    }
    if (mounted(this.dir) || mounted(ram)) return false;
    removeDirs(this.dir, ram, blkioGroup(this.dir));
    removeMemoryGroups();
    return true;
  }
}

const GIB = 2 ** 30;

/**
 * Has a known disk for as long as `use` runs. Throws where the machine has not the memory for it.
 * @param {object} options
 * @param {number} options.sizeGib of the disk, which is in RAM
 * @param {number} options.ramBytes that the runs take beside it
 * @param {number} options.mibPerSecond
 * @param {(disk: KnownDisk) => Promise<void>} use
 */
export async function onKnownDisk({ sizeGib, ramBytes, mibPerSecond }, use) {
  const needed = sizeGib * GIB + ramBytes;
  if (availableMemory() < needed)
    throw new Error(
      `needs ${round(needed / GIB)} GiB of free RAM, ${round(availableMemory() / GIB)} GiB are; try --layers`,
    );
  const disk = new KnownDisk({ sizeGib, mibPerSecond });
  try {
    await use(disk);
  } finally {
    disk.down();
  }
}

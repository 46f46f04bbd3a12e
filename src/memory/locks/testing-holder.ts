// A program that holds the lock of a folder until its stdin ends: node testing-holder.ts <folder>. Run by file-lock.test.ts.
import { lockFolder } from "./file-lock.ts";

await lockFolder(process.argv[2] ?? "", "the folder");
process.stdout.write("held\n");
process.stdin.on("end", () => process.exit(0)).resume();

// The command line as a function: arguments and streams in, exit code out. Commands live in files of their own and load
// the engine only when they run, so that help and mistakes are answered at once.
import { Command } from "commander";
import { addChat } from "./chat/chat.ts";
import { addDemo } from "./demo.ts";
import { addDoctor } from "./doctor/doctor.ts";
import { EXIT, exitOf, type Failure, ToldInJson } from "./exit-codes.ts";
import { addInspect } from "./inspect/inspect.ts";
import { version } from "./installation.ts";
import { type Io, note, safeLine, styled, writeJson, writeOut } from "./io.ts";
import { addMerge } from "./merge.ts";
import { addRun } from "./run.ts";
import { addTrain } from "./train/train.ts";

const EPILOGUE = `
Data goes to stdout, progress and reports to stderr. Every command takes --json.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 does not fit in the budget, 130 interrupted.

Environment:
  SPILLWAY_GGML_DIR   folder of tensor libraries to use in place of the installed package
  SPILLWAY_DEBUG=1    show where an error arose
  UV_THREADPOOL_SIZE  threads for reads and compute together (default 4)
  NO_COLOR            no colours
`;

/**
 * Runs one command. Never throws: every failure is a message on stderr (and, with --json, a document on stdout) and an
 * exit code.
 */
export async function main(argv: readonly string[], io: Io): Promise<number> {
  const out: string[] = [];
  const program = new Command("spillway")
    .description(
      "Runs transformer models bigger than the memory they are given: weights spill GPU -> RAM -> disk.",
    )
    .version(version())
    .exitOverride()
    .configureOutput({
      writeOut: (text) => out.push(text),
      writeErr: (text) => io.stderr.write(safeLine(text)),
      outputError: (text, write) => write(text.replace(/^error:/, styled(io.stderr, "red", "error:"))),
    })
    .showHelpAfterError("(add --help for the options there are)")
    .addHelpText("after", EPILOGUE);
  for (const add of [addRun, addChat, addTrain, addInspect, addMerge, addDoctor, addDemo]) add(program, io);
  let failure: Failure;
  let told = false;
  try {
    await program.parseAsync([...argv], { from: "user" });
    if (out.length > 0) await writeOut(io, out.join(""));
    return EXIT.done;
  } catch (error) {
    failure = exitOf(error, io.signal);
    told = error instanceof ToldInJson;
    if (!failure.said) tell(io, error, failure);
  }
  try {
    if (out.length > 0) await writeOut(io, out.join(""));
    const json = argv.slice(0, argv.includes("--") ? argv.indexOf("--") : undefined).includes("--json");
    if (json && !told && failure.exitCode !== EXIT.done)
      await writeJson(io, { error: { code: failure.code, message: failure.message } });
  } catch {
    // Nobody reads; the exit code still says what happened.
  }
  return failure.exitCode;
}

function tell(io: Io, error: unknown, { message, code }: Failure): void {
  if (process.env.SPILLWAY_DEBUG === "1" && error instanceof Error) note(io, error.stack);
  else note(io, code === "aborted" ? message : `${styled(io.stderr, "red", "error:")} ${message}`);
}

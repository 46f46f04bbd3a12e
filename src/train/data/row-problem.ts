// Why a row cannot be used, without the place it comes from: whoever reads rows adds file and line.
import { shown } from "../../base/shown.ts";

export class RowProblem {
  readonly problem: string;
  constructor(problem: string) {
    this.problem = problem;
  }
}

/** A column that should be a string. `other` is the type of the column that goes with it. */
export function notString(
  key: string,
  value: unknown,
  row: Readonly<Record<string, unknown>>,
  other = "string",
): RowProblem {
  if (!(key in row)) return new RowProblem(`"${key}" is missing`);
  const both =
    other === "object" || typeof value === "object"
      ? ', or lists of messages in both "prompt" and "completion"'
      : "";
  return new RowProblem(`"${key}" is ${shown(value, 60)}, expected a string${both}`);
}

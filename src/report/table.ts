// Rows of text as columns of equal width. Knows nothing of what the cells mean.

/** How the cells of one column stand. */
export type Align = "left" | "right";

/** Spaces between columns. */
const GAP = 2;

/** Lines of a table; columns past those in `align` stand right. A row may have fewer cells than others. */
export function tableLines(
  rows: readonly (readonly string[])[],
  align: readonly Align[] = ["left"],
): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  return rows.map((row) =>
    row
      .map((cell, i) => {
        const width = widths[i] as number;
        return (align[i] ?? "right") === "left" ? cell.padEnd(width) : cell.padStart(width);
      })
      .join(" ".repeat(GAP))
      .trimEnd(),
  );
}

// Line charts as HTML: the lines in an SVG that stretches with the page, the labels beside it in type that does not.
// Without a script. Knows nothing of training; colours are CSS classes of the page (training-report.ts).

/** A line's CSS class. */
export type Look = "first" | "second" | "third" | "faint";

/** One line. `values[i]` stands over `x[i]`; where it is not finite there is a gap. */
export interface Series {
  readonly name: string;
  readonly values: readonly number[];
  readonly look: Look;
  /** Also a dot at every value: for few of them. */
  readonly points?: boolean;
}

export interface ChartOptions {
  /** The y axis reaches at least from `from` to `to`. Default: what the values span. */
  readonly from?: number;
  readonly to?: number;
  /** Label y at round numbers of KiB, MiB, ... instead of round numbers. */
  readonly binary?: boolean;
  /** A logarithmic y axis where the values span enough for it to show more. */
  readonly log?: boolean;
}

/** Units of the SVG's own coordinates, both ways; CSS stretches it. */
const SIDE = 1000;
/** A line keeps the lowest and the highest value of each of so many parts of its length. */
const PARTS = 400;
/** Ticks per axis, about. */
const TICKS = 5;
/** Neighbours on either side that count in the moving mean of {@link smoothed}: this part of all values, within bounds. */
const REACH = { part: 1 / 20, least: 2, most: 20 } as const;
/** From so many times the lowest value on, a logarithmic axis shows more of the lower ones than it hides of the others. */
const LOG_SPAN = 8;

/** A figure with caption, legend, axes and lines. `x` rises and is not empty. Names and caption are escaped. */
export function chartHtml(
  caption: string,
  x: readonly number[],
  format: (y: number) => string,
  series: readonly Series[],
  options: ChartOptions = {},
): string {
  const legend = series.map(({ name, look }) => `<span><i class="${look}"></i>${escapeHtml(name)}</span>`);
  const head = `<figcaption>${escapeHtml(caption)}</figcaption><div class="legend">${series.length > 1 ? legend.join("") : ""}</div>`;
  const ranges = series.map(({ values }) => rangeOf(values)).filter((range) => range !== undefined);
  if (ranges.length === 0) return `<figure>${head}<p>no values</p></figure>`;
  const low = Math.min(...ranges.map((r) => r.low), options.from ?? Number.POSITIVE_INFINITY);
  const high = Math.max(...ranges.map((r) => r.high), options.to ?? Number.NEGATIVE_INFINITY);
  const unit = options.binary ? 1024 ** Math.floor(Math.log2(Math.max(high, 1)) / 10) : 1;
  const isLog = options.log === true && low > 0 && high / low >= LOG_SPAN;
  const y = isLog ? logAxis(low, high) : axis(low, high, unit);
  const scale = isLog ? Math.log : (value: number) => value;
  const left = x[0]!;
  const right = Math.max(x.at(-1)!, left + 1);
  const across = (value: number) => (SIDE * (value - left)) / (right - left);
  const [bottom, top] = [scale(y.low), scale(y.high)];
  const down = (value: number) => SIDE - (SIDE * (scale(value) - bottom)) / (top - bottom);
  const lines = series.map(({ values, look, points }) => {
    const measured = points ? indices(values).filter((i) => Number.isFinite(values[i])) : indices(values);
    const kept = thinned(measured, values).map((i) => ({ x: across(x[i]!), y: down(values[i]!) }));
    const line = `<path class="${look}" d="${linePath(kept)}"/>`;
    const there = kept.filter((point) => Number.isFinite(point.y));
    const dots = points || there.length === 1 ? there.map(dot).join("") : "";
    return dots === "" ? line : `${line}<path class="${look} points" d="${dots}"/>`;
  });
  const grid = y.ticks.map((tick) => `M0 ${short(down(tick))}h${SIDE}`).join("");
  const labels = [
    ...distinct(y.ticks, format).map(
      (tick) => `<span class="y" style="top:${short(down(tick) / 10)}%">${escapeHtml(format(tick))}</span>`,
    ),
    ...axis(left, right, 1)
      .ticks.filter((tick) => Number.isInteger(tick) && tick >= left && tick <= right)
      .map((tick) => `<span class="x" style="left:${short(across(tick) / 10)}%">${tick}</span>`),
  ];
  const spoken = series.map(({ name, values }) => `${name} ${inWords(rangeOf(values), format)}`).join("; ");
  const svg = `<svg viewBox="0 0 ${SIDE} ${SIDE}" preserveAspectRatio="none" role="img" aria-label="${escapeHtml(`${caption}: ${spoken}`)}">`;
  return `<figure>${head}<div class="plot">${svg}<path class="grid" d="${grid}"/>${lines.join("")}</svg>${labels.join("")}</div></figure>`;
}

/**
 * A moving mean over both sides of each value, with weights that fall by distance: a mean over the past alone lies above
 * a loss that falls, and above the evaluation beside it; so does one over a large part of a short run. At the ends it is one over what there is. Gaps are passed over.
 */
export function smoothed(values: readonly number[]): number[] {
  const reach = Math.min(REACH.most, Math.max(REACH.least, values.length * REACH.part));
  const keep = 1 - 1 / reach;
  const ahead = oneSided(values, keep);
  const back = oneSided([...values].reverse(), keep).reverse();
  return values.map((value, i) => {
    const [before, after] = [ahead[i] as OneSided, back[i] as OneSided];
    const own = Number.isFinite(value) ? { sum: value, weight: 1 } : { sum: 0, weight: 0 }; // in both sides
    const weight = before.weight + after.weight - own.weight;
    return weight > 0 ? (before.sum + after.sum - own.sum) / weight : Number.NaN;
  });
}

interface OneSided {
  readonly sum: number;
  readonly weight: number;
}

/** Of each value and those before it: sums with weights that fall to `keep` from one to the next, and the weights. */
function oneSided(values: readonly number[], keep: number): OneSided[] {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    const there = Number.isFinite(value);
    sum = keep * sum + (there ? value : 0);
    weight = keep * weight + (there ? 1 : 0);
    return { sum, weight };
  });
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

interface Range {
  readonly low: number;
  readonly high: number;
}

interface Point {
  readonly x: number;
  readonly y: number;
}

/** Of the finite values; a loop, because a long run has more values than a call takes arguments. */
function rangeOf(values: readonly number[]): Range | undefined {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? { low, high } : undefined;
}

function inWords(range: Range | undefined, format: (y: number) => string): string {
  return range ? `from ${format(range.low)} to ${format(range.high)}` : "without values";
}

/** An axis that holds `low` to `high`, with about {@link TICKS} ticks at 1, 2 or 5 times a power of ten of `unit`. */
function axis(low: number, high: number, unit: number): Range & { ticks: number[] } {
  // Values that differ by rounding alone are one value.
  const flat = high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high));
  const around = flat ? Math.abs(low) / 10 || 1 : 0;
  const bottom = low - (low === 0 ? 0 : around);
  const top = high + around;
  const rough = (top - bottom) / TICKS / unit;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = unit * power * ([1, 2, 5].find((m) => m * power >= rough) ?? 10);
  const first = Math.floor(bottom / step);
  const last = Math.ceil(top / step);
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { low: first * step, high: last * step, ticks };
}

/** An axis of equal ratios, with ticks at 1, 2 and 5 times powers of ten. */
function logAxis(low: number, high: number): Range & { ticks: number[] } {
  const powers = Array.from(
    { length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 2 },
    (_, i) => 10 ** (Math.floor(Math.log10(low)) + i),
  );
  const all = powers.flatMap((power) => [1, 2, 5].map((m) => Number((m * power).toPrecision(1))));
  const first = Math.max(
    0,
    all.findLastIndex((tick) => tick <= low),
  );
  const last = all.findIndex((tick) => tick >= high);
  const ticks = all.slice(first, last + 1);
  return { low: ticks[0] as number, high: ticks.at(-1) as number, ticks };
}

/** Ticks without those that would be labelled as the one before. */
function distinct(ticks: readonly number[], format: (y: number) => string): number[] {
  return ticks.filter((tick, i) => i === 0 || format(tick) !== format(ticks[i - 1]!));
}

function indices(values: readonly unknown[]): number[] {
  return [...values.keys()];
}

/** Of many values, the lowest and the highest of each part, and one that is not finite where a part has no other. */
function thinned(among: readonly number[], values: readonly number[]): number[] {
  if (among.length <= 2 * PARTS) return [...among];
  const kept: number[] = [];
  for (let part = 0; part < PARTS; part++) {
    const end = Math.floor(((part + 1) * among.length) / PARTS);
    const own = among.slice(Math.floor((part * among.length) / PARTS), end);
    const finite = own.filter((i) => Number.isFinite(values[i]));
    const lowest = finite.reduce((a, b) => (values[b]! < values[a]! ? b : a), finite[0] ?? own[0]!);
    const highest = finite.reduce((a, b) => (values[b]! > values[a]! ? b : a), lowest);
    kept.push(...(lowest === highest ? [lowest] : [lowest, highest].sort((a, b) => a - b)));
  }
  return kept;
}

/** Lines between neighbours, dots for those without. */
function linePath(points: readonly Point[]): string {
  const there = (i: number) => Number.isFinite(points[i]?.y);
  return points
    .map((point, i) => {
      if (!there(i)) return "";
      if (there(i - 1)) return `L${short(point.x)} ${short(point.y)}`;
      return there(i + 1) ? `M${short(point.x)} ${short(point.y)}` : dot(point);
    })
    .join("");
}

/** A line of no length: its round ends make a dot that stays round however the SVG is stretched. */
function dot({ x, y }: Point): string {
  return `M${short(x)} ${short(y)}h0`;
}

function short(value: number): string {
  return String(Math.round(value * 10) / 10);
}

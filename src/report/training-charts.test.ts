import { describe, expect, test } from "vitest";
import { chartHtml, escapeHtml, type Series, smoothed } from "./training-charts.ts";

const count = (n: number) => Array.from({ length: n }, (_, i) => i);
const line = (values: readonly number[], more: Partial<Series> = {}): Series => ({
  name: "line",
  values,
  look: "first",
  ...more,
});
const chart = (values: readonly number[], more: Partial<Series> = {}, x = count(values.length)) =>
  chartHtml("Chart", x, String, [line(values, more)]);
const path = (html: string, look = "first") => new RegExp(`class="${look}" d="([^"]*)"`).exec(html)?.[1];
const labels = (html: string, axis: "x" | "y") =>
  [...html.matchAll(new RegExp(`class="${axis}"[^>]*>([^<]*)<`, "g"))].map((match) => match[1]);

describe("a line", () => {
  test("runs from the lower left to the upper right of what its values span", () => {
    expect(path(chart([0, 5, 10]))).toBe("M0 1000L500 500L1000 0");
  });

  test("has a gap where a value is not finite, and a dot for one that stands alone", () => {
    expect(path(chart([0, 10, Number.NaN, 5, Number.POSITIVE_INFINITY]))).toBe("M0 1000L250 0M750 500h0");
  });

  test("of measurements that are seldom made goes from one to the next, with dots", () => {
    const html = chart([0, Number.NaN, 10], { points: true });
    expect(path(html)).toBe("M0 1000L1000 0");
    expect(path(html, "first points")).toBe("M0 1000h0M1000 0h0");
  });

  test("of very many values stays short, and keeps a spike", () => {
    const values = count(300_000).map((i) => (i === 123_457 ? 50 : i % 2));
    const drawn = path(chart(values))!;
    expect(drawn.match(/[ML]/g)!.length).toBeLessThanOrEqual(800);
    expect(drawn.match(/ 0(?=L|$)/g)).toHaveLength(1); // the top
  });

  test("keeps a stretch without values as a gap however many values there are", () => {
    const values = count(10_000).map((i) => (i >= 4000 && i < 6000 ? Number.NaN : i));
    expect(path(chart(values))!.match(/M/g)).toHaveLength(2);
  });
});

describe("axes", () => {
  test("have round numbers", () => {
    const html = chart([0.13, 0.87], {}, [1, 2000]);
    expect(labels(html, "x")).toEqual(["500", "1000", "1500", "2000"]);
    expect(labels(html, "y").map((label) => Number(label).toFixed(6))).toEqual(
      ["0", "0.2", "0.4", "0.6", "0.8", "1"].map((label) => Number(label).toFixed(6)),
    );
  });

  test("reach as far as they are told to", () => {
    const html = chartHtml("Chart", [1, 2], String, [line([0.4, 0.6])], { from: 0, to: 1 });
    expect([labels(html, "y").at(0), labels(html, "y").at(-1)]).toEqual(["0", "1"]);
  });

  test("have round numbers of KiB where bytes are counted", () => {
    const html = chartHtml("Chart", [1, 2], (y) => `${y / 1024}`, [line([0, 3 * 1024])], { binary: true });
    expect(labels(html, "y")).toEqual(["0", "1", "2", "3"]);
  });

  test("are there for one value, for equal ones, and for zeros", () => {
    for (const values of [[7], [7, 7], [7, 7 + 1e-15], [0, 0], [-3]]) {
      const html = chart(values);
      expect(html).not.toMatch(/NaN|Infinity/);
      expect(labels(html, "y").length).toBeGreaterThan(2);
      expect(path(html)).toMatch(/^M/);
    }
  });

  test("do not say the same twice", () => {
    const html = chartHtml("Chart", [1, 2], (y) => y.toFixed(0), [line([0, 1])]);
    expect(labels(html, "y")).toEqual(["0", "1"]);
  });
});

test("without values there is no chart, and it says so", () => {
  expect(chart([Number.NaN])).toContain("no values");
  expect(chart([Number.NaN])).not.toContain("<svg");
});

test("several lines have a legend, and what they are called is text", () => {
  const html = chartHtml("a < b", [1, 2], String, [line([1, 2], { name: '"<i>"' }), line([2, 1])]);
  expect(html).toContain('<span><i class="first"></i>&#34;&#60;i&#62;&#34;</span>');
  expect(html).toContain("<figcaption>a &#60; b</figcaption>");
  expect(escapeHtml("a&'b'")).toBe("a&#38;&#39;b&#39;");
});

describe("the moving mean", () => {
  test("of equal values is that value from the start on", () => {
    for (const mean of smoothed([3, 3, 3, 3])) expect(mean).toBeCloseTo(3, 12);
  });

  test("weighs both sides of a value by distance", () => {
    const [first, second, third] = smoothed([0, 1, 0]);
    expect(first).toBeCloseTo(0.5 / (1 + 0.5 + 0.5 ** 2), 12);
    expect(second).toBeCloseTo(1 / (0.5 + 1 + 0.5), 12);
    expect(third).toBeCloseTo(first as number, 12);
  });

  test("does not lag behind values that fall along a line", () => {
    const values = Array.from({ length: 401 }, (_, i) => 4 - i / 100);
    expect(smoothed(values)[200]).toBeCloseTo(2, 6);
  });

  test("follows the fall of a short run: its end is not above the last values", () => {
    const values = Array.from({ length: 60 }, (_, i) => 0.4 + 9.6 * Math.exp(-i / 6));
    expect(smoothed(values).at(-1)).toBeLessThan(0.41);
    for (const [i, mean] of smoothed(values).entries())
      expect(mean).toBeLessThan(1.5 * (values[i] as number));
  });

  test("passes over gaps", () => {
    expect(smoothed([Number.NaN, 2, Number.NaN])).toEqual([2, 2, 2]);
  });
});

describe("a logarithmic axis", () => {
  const spread = [10, 4, 2, 1.1, 1];
  const logChart = (values: readonly number[]) =>
    chartHtml("Chart", count(values.length), String, [line(values)], { log: true });

  test("has ticks at 1, 2 and 5 times powers of ten, equal ratios apart", () => {
    const html = logChart(spread);
    expect(labels(html, "y")).toEqual(["1", "2", "5", "10"]);
    expect(path(html)).toMatch(/^M0 0L250 397\.9/); // 4 of 1 to 10: log10(4) = 0.602 of the height
  });

  test("is taken only where the values span enough, and are all above 0", () => {
    for (const values of [
      [3, 2, 1],
      [10, 0, 1],
    ])
      expect(logChart(values)).toBe(chart(values));
  });
});

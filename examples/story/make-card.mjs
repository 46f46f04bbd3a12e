// Writes the model's card: what it is, how it was made, and the loss of every step as a picture.
//   node examples/story/make-card.mjs --run story-run --model examples/story/model
// @ts-check
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

/** @typedef {{ step: number, loss: number, eval_loss?: number, tokens: number }} Row */

const WIDTH = 720;
const HEIGHT = 300;
const LEFT = 44;
const BOTTOM = 34;

/**
 * Steps against losses, as SVG: every step thin, held-out stories as dots.
 * @param {readonly Row[]} rows
 */
export function lossChart(rows) {
  const last = rows.at(-1)?.step ?? 1;
  const top = Math.ceil(Math.max(...rows.map((r) => r.loss)));
  /** @param {number} step */
  const x = (step) => LEFT + ((WIDTH - LEFT - 12) * step) / last;
  /** @param {number} loss */
  const y = (loss) => 12 + (HEIGHT - BOTTOM - 12) * (1 - loss / top);
  const points = rows.map((r) => `${x(r.step).toFixed(1)},${y(r.loss).toFixed(1)}`).join(" ");
  const dots = rows
    .filter((r) => r.eval_loss !== undefined)
    .map(
      (r) =>
        `<circle cx="${x(r.step).toFixed(1)}" cy="${y(r.eval_loss ?? 0).toFixed(1)}" r="4" fill="#d9480f"/>`,
    );
  const lines = Array.from({ length: top + 1 }, (_, loss) => {
    const at = y(loss).toFixed(1);
    return `<path d="M${LEFT} ${at}H${WIDTH - 12}" stroke="#8884"/><text x="${LEFT - 8}" y="${at}" text-anchor="end" dominant-baseline="middle">${loss}</text>`;
  });
  const steps = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const step = Math.round(last * part);
    return `<text x="${x(step).toFixed(1)}" y="${HEIGHT - 12}" text-anchor="middle">${step}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="#868e96">
<title>Loss by step</title>
${lines.join("\n")}
${steps.join("\n")}
<polyline points="${points}" fill="none" stroke="#1c7ed6" stroke-width="1.2"/>
${dots.join("\n")}
</svg>
`;
}

/**
 * @param {readonly Row[]} rows
 * @param {{ parameters: number, vocabulary: number }} model
 */
export function card(rows, { parameters, vocabulary }) {
  const last = rows.at(-1);
  const held = rows.filter((r) => r.eval_loss !== undefined).at(-1);
  const million = (/** @type {number} */ n) => (n / 1e6).toFixed(1);
  return `# Stories, ${million(parameters)} million parameters

A Llama of ${parameters.toLocaleString("en")} parameters (float32) with a tokenizer of ${vocabulary.toLocaleString("en")} tokens that writes little stories for small children. It knows nothing else. It is here so that there is a real model to try things with.

Made from nothing with Spillway: stories from the grammar in [..](..), the tokenizer trained on them, random weights trained with \`spillway train\` on a CPU, master weights in RAM and both moments of Adam on disk. [../README.md](../README.md) is the recipe; it makes these very files.

${last?.step} steps, ${million(last?.tokens ?? 0)} million tokens; loss ${last?.loss.toFixed(2)} at the end, ${held?.eval_loss?.toFixed(2)} on ${held === last ? "" : `step ${held?.step}, `}stories it has not seen (the dots).

![loss by step](loss.svg)

Limits: it keeps to a plot and to the names in it, and knows the twelve plots and the 36 names of its grammar only; anything else it continues with nonsense. Texts: English only.
`;
}

async function main() {
  const { values } = parseArgs({ options: { run: { type: "string" }, model: { type: "string" } } });
  const { run, model } = values;
  if (!run || !model) throw new Error("usage: make-card.mjs --run DIR --model DIR");
  const rows = (await readFile(join(run, "log.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const config = JSON.parse(await readFile(join(model, "config.json"), "utf8"));
  const weights = await readFile(join(model, "model.safetensors"));
  const header = JSON.parse(weights.toString("utf8", 8, 8 + Number(weights.readBigUInt64LE(0))));
  let parameters = 0;
  for (const [name, tensor] of Object.entries(header))
    if (name !== "__metadata__")
      parameters += tensor.shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
  await writeFile(join(model, "loss.svg"), lossChart(rows));
  await writeFile(join(model, "README.md"), card(rows, { parameters, vocabulary: config.vocab_size }));
}

if (process.argv[1] === new URL(import.meta.url).pathname) await main();

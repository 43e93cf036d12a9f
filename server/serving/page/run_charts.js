// The charts of a run: what it learned, what it spent, and whom it serves. It reads no service.

import { chart } from "./charts.js";
import { element } from "./elements.js";
import { OURS, UNTRAINED, validated } from "./figures.js";

const DECILES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const DRAWN = [OURS, UNTRAINED, "popularity", "ease"]; // of the popularity deciles

/** The validation figure over the rounds, of one run or more. */
export function learningCurve(runs) {
  const keys = new Set(runs.map((run) => validated(run.rounds)).filter(Boolean));
  if (keys.size !== 1) return null;
  const [key] = keys;
  const series = runs.map((run) => ({
    name: run.name,
    points: run.rounds.filter((line) => typeof line[key] === "number").map((line) => ({ x: line.round, y: line[key] })),
  }));
  const name = key.replace("_", " ");
  if (series.every((one) => one.points.length < 2)) {
    return element(
      "p",
      { class: "soft" },
      `No learning curve: ${name} was measured once; evaluation.every says how often.`,
    );
  }
  return chart({ title: "Learning curve", x: { label: "round", whole: true }, y: { label: name }, series });
}

/** Epsilon after each round, beside the budget; nothing where its unit is not told. */
export function spentCurve(run) {
  const points = run.rounds
    .filter((line) => typeof line.epsilon === "number")
    .map((line) => ({ x: line.round, y: line.epsilon }));
  const unit = run.results?.privacy.unit ?? run.ledger?.unit ?? run.unit;
  const budget = run.results?.privacy.target_epsilon ?? run.ledger?.clients[0]?.budget;
  if (points.length < 2 || !unit) return null; // an epsilon without its unit says nothing
  const last = run.rounds.at(-1)?.round ?? 1;
  const series = [{ name: "spent by the client that spent most", points }];
  if (budget) series.push({ name: "budget", flat: true, points: [{ x: last, y: budget }] });
  return chart({ title: "Privacy spent", x: { label: "round", whole: true }, y: { label: `ε per ${unit}` }, series });
}

/** HR@10 by how popular the wanted item is. */
export function deciles(results) {
  return decileChart(DRAWN.map((name) => ({ name, system: results.systems[name] })));
}

/** The same for any systems, [{name, system}]. */
export function decileChart(lines) {
  const series = lines
    .filter(({ system }) => system?.deciles)
    .map(({ name, system }) => ({
      name,
      points: Object.entries(system.deciles).map(([decile, found]) => ({
        x: Number(decile),
        y: found["HR@10"].mean,
        low: found["HR@10"].low,
        high: found["HR@10"].high,
      })),
    }));
  if (!series.length) return null;
  return chart({
    title: "Popular and rare items",
    x: { label: "popularity decile (1 = most popular tenth)", whole: true, ticks: DECILES },
    y: { label: "HR@10" },
    series,
    note: "HR@10 by the popularity of the wanted item; whiskers are 95 % intervals.",
  });
}

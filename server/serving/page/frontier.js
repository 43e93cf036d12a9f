// What privacy costs: one figure against epsilon over finished runs. Runs with another unit, protocol or data are never
// drawn together.

import { chart } from "./charts.js";
import { choice, element, fill, notice } from "./elements.js";
import { OURS, columns, decimal, figure } from "./figures.js";
import { ask } from "./service.js";

const MOST = 60; // runs that are read; the newest names of the list come first
const AT_ONCE = 4;
const cache = new Map(); // name -> results of a finished run

/** A section that reads the runs when it is opened. */
export function frontier(names) {
  const place = element("div", {}, element("p", { class: "soft" }, "Reading the finished runs …"));
  const read = async () => {
    try {
      fill(place, chosen(await readAll(names.slice(0, MOST))));
    } catch (error) {
      fill(place, notice("bad", error.message, "Try again", read));
    }
  };
  read();
  return element("section", {}, element("h2", {}, "Frontier: what privacy costs"), place);
}

async function readAll(names) {
  const left = names.filter((name) => !cache.has(name));
  const worker = async () => {
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      const { results } = await ask(`/v1/runs/${encodeURIComponent(name)}`);
      if (results?.systems?.[OURS]) cache.set(name, results);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return names.filter((name) => cache.has(name)).map((name) => ({ name, results: cache.get(name) }));
}

function setting({ results: { dataset, protocol, privacy } }) {
  return privacy.epsilon === null ? null : `${dataset.name}, protocol ${protocol}, ε per ${privacy.unit}`;
}

function chosen(runs) {
  const groups = new Map();
  for (const run of runs.filter(setting)) groups.set(setting(run), [...(groups.get(setting(run)) ?? []), run]);
  if (!groups.size)
    return notice(
      "info",
      "No finished run has a privacy claim yet. hushrec sweep trains one run for each epsilon; they are drawn here.",
    );
  const [largest] = [...groups.keys()].sort((a, b) => groups.get(b).length - groups.get(a).length);
  const place = element("div");
  const draw = (name, wanted) => {
    const group = groups.get(name);
    const shown = columns(...group.map((run) => run.results));
    const [path, label] =
      shown.find(([one]) => one === wanted) ?? shown.find(([one]) => one.includes("NDCG")) ?? shown[0];
    const data = choice("frontier-group", "Data, protocol and unit", [...groups.keys()], name, (value) =>
      draw(value, path),
    );
    const drawnFigure = choice("frontier-figure", "Figure", shown, path, (value) => draw(name, value));
    fill(place, element("div", { class: "line" }, data, drawnFigure), plot(group, runs, path, label));
  };
  draw(largest, null);
  return place;
}

function plot(group, runs, path, label) {
  const {
    dataset,
    protocol,
    privacy: { unit },
  } = group[0].results;
  const points = group
    .map((run) => point(run, path))
    .filter(Boolean)
    .sort((a, b) => a.x - b.x);
  const series = [{ name: `${OURS}, one mark a run`, loose: true, points }];
  const open = runs.filter(
    ({ results: one }) =>
      one.privacy.epsilon === null && one.dataset.name === dataset.name && one.protocol === protocol,
  );
  const best = open
    .map((run) => point(run, path))
    .filter(Boolean)
    .sort((a, b) => b.y - a.y)[0];
  if (best)
    series.push({
      name: `without privacy (${best.label})`,
      flat: true,
      points: [{ ...best, low: undefined, high: undefined }],
    });
  return chart({
    title: `${label} by ε per ${unit}`,
    x: { label: `ε per ${unit} (log scale)`, log: true },
    y: { label },
    series,
    note: "Whiskers are 95 % intervals over users.",
  });
}

function point({ name, results }, path) {
  const found = figure(results.systems[OURS], path);
  if (!found) return null;
  const { epsilon, unit } = results.privacy;
  const label = epsilon === null ? name : `${name}: ε = ${decimal(epsilon, 2)} per ${unit}`;
  return { x: epsilon, y: found.mean, low: found.low, high: found.high, label };
}

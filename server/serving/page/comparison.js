// Two finished runs side by side: figures, curves and the settings that differ. It tests nothing for significance.

import { choice, element, fill, notice, table } from "./elements.js";
import { OURS, columns, decimal, epsilonPer, figure, interval, signed } from "./figures.js";
import { decileChart, learningCurve } from "./run_charts.js";

const IGNORED = new Set(["run.directory", "run.experiment"]);

/** The comparison of [first, second]. */
export function comparison(runs) {
  const unfinished = runs.filter((run) => !run.results).map((run) => run.name);
  if (runs.length < 2) return notice("info", "Choose two runs in the list first.");
  if (unfinished.length)
    return notice("info", `No results yet of ${unfinished.join(" and ")}: compare again when it is finished.`);
  const names = Object.keys(runs[0].results.systems).filter((name) => name in runs[1].results.systems);
  const place = element("div");
  const show = (name) =>
    fill(
      place,
      figures(runs, name),
      element(
        "div",
        { class: "charts" },
        learningCurve(runs),
        decileChart(runs.map((run) => ({ name: run.name, system: run.results.systems[name] }))),
      ),
    );
  const chosen = names.includes(OURS) ? OURS : names[0];
  show(chosen);
  return [
    element("p", { class: "versus" }, element("b", {}, runs[0].name), " against ", element("b", {}, runs[1].name)),
    ...warnings(runs),
    choice("compared-system", "System", names, chosen, show),
    place,
    settings(runs),
  ];
}

function warnings(runs) {
  const [first, second] = runs.map((run) => run.results);
  const found = [];
  for (const [name, read] of [
    ["data", (one) => one.dataset.name],
    ["protocols", (one) => one.protocol],
  ]) {
    if (read(first) !== read(second)) {
      found.push(
        notice("bad", `Different ${name} (${read(first)}, ${read(second)}): these figures cannot be compared.`),
      );
    }
  }
  return found;
}

function figures(runs, name) {
  const [first, second] = runs.map((run) => run.results.systems[name]);
  const rows = columns(...runs.map((run) => run.results)).map(([path, label]) => {
    const found = [figure(first, path), figure(second, path)];
    const cells = found.map((one) => (one ? [decimal(one.mean), element("small", {}, interval(one))] : "–"));
    return [label, ...cells, found[0] && found[1] ? signed(found[1].mean - found[0].mean) : "–"];
  });
  const spent = runs.map((run) => epsilonPer(run.results.privacy.epsilon, run.results.privacy.unit));
  return element(
    "section",
    {},
    element("h2", {}, `Figures of ${name}`),
    table(
      "Figures of both runs",
      ["figure", ...runs.map((run) => run.name), "second − first"],
      [...rows, ["privacy spent", ...spent, "–"]],
    ),
    element(
      "p",
      { class: "small soft" },
      "Each interval is of its own run; the difference is of two means and is no test of significance.",
    ),
  );
}

function settings(runs) {
  const [first, second] = runs.map((run) => run.results.config ?? {});
  const keys = [...new Set([...Object.keys(first), ...Object.keys(second)])].filter((key) => !IGNORED.has(key));
  const rows = keys
    .filter((key) => first[key] !== second[key])
    .map((key) => [key, told(first[key]), told(second[key])]);
  const heads = ["setting", ...runs.map((run) => run.name)];
  return element(
    "section",
    {},
    element("h2", {}, "Settings that differ"),
    rows.length ? table("Settings that differ", heads, rows, "text") : element("p", {}, "None."),
  );
}

function told(value) {
  return value === undefined || value === "" ? "–" : String(value);
}

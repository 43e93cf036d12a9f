// The second view: every run, one run as it trains or when it is done, two runs side by side, and the frontier.

import { comparison } from "./comparison.js";
import { choice, element, fill, notice, table, tile } from "./elements.js";
import {
  OURS,
  UNTRAINED,
  best,
  columns,
  count,
  decimal,
  epsilonPer,
  figure,
  interval,
  seconds,
  small,
} from "./figures.js";
import { frontier } from "./frontier.js";
import { deciles, learningCurve, spentCurve } from "./run_charts.js";
import { ask, every } from "./service.js";

const POLL = 2; // seconds
const STATES = { running: "running", finished: "finished", stopped: "stopped before its end" };

export function runsView(section) {
  let stop = null;
  let current = null; // what is shown; an answer that comes after the person left changes nothing
  async function show(kind, names) {
    hide();
    const place = (current = element("div"));
    section.replaceChildren(place);
    const pages = { run: () => one(place, names[0]), compare: () => two(place, names) };
    const found = await (pages[kind] ?? (() => list(place)))();
    if (current === place) stop = found;
    else found?.();
  }
  function hide() {
    stop?.();
    stop = current = null;
  }
  return { title: "Runs", show, hide, retry: show };
}

/** All of a run that the server tells; rounds that an earlier answer had are kept where it tells the last ones only. */
export async function readRun(name, before = null) {
  const run = await ask(`/v1/runs/${encodeURIComponent(name)}`);
  const rounds = new Map((before?.rounds ?? []).map((line) => [line.round, line]));
  for (const line of run.rounds ?? []) rounds.set(line.round, line);
  return { ...run, name, rounds: [...rounds.values()].sort((a, b) => a.round - b.round) };
}

function title(section, words, ...content) {
  fill(section, element("h1", { id: "runs-title", tabindex: "-1" }, words), ...content);
}

async function list(section) {
  const place = element("div", { "aria-busy": "true" }, element("p", { class: "soft" }, "Reading the runs …"));
  title(section, "Runs", place);
  let last = "";
  async function poll() {
    let runs;
    try {
      runs = (await ask("/v1/runs")).runs ?? [];
    } catch (error) {
      fill(
        place,
        notice("bad", error.message, "Try again", () => list(section)),
      );
      return false;
    } finally {
      place.removeAttribute("aria-busy");
    }
    const now = JSON.stringify(runs.map((run) => [run.name, run.state]));
    if (now !== last) fill(place, overview(runs));
    else
      for (const run of runs)
        [...place.querySelectorAll("tbody tr")].find((row) => row.dataset.run === run.name)?.replaceWith(line(run));
    last = now;
    return runs.some((run) => run.state === "running");
  }
  return (await poll()) ? every(POLL, poll) : null;
}

function overview(runs) {
  if (!runs.length)
    return notice(
      "info",
      "No runs are shown. Start the server with --runs FOLDER, and train a run in that folder with hushrec simulate: " +
        "it appears here as it trains.",
    );
  const made = table("All runs", ["run", "state", "rounds", "privacy spent"], [], "text");
  made.querySelector("tbody").append(...runs.map(line));
  const done = runs.filter((run) => run.state !== "running").map((run) => run.name);
  return [made, done.length > 1 && compareForm(done), frontier(done)];
}

function line(run) {
  const made = element(
    "tr",
    { class: run.state },
    element("th", { scope: "row" }, element("a", { href: `#run/${encodeURIComponent(run.name)}` }, run.name)),
    element("td", {}, STATES[run.state] ?? run.state ?? "–"),
    element("td", {}, progress(run.name, run.round, run.rounds)),
    element("td", {}, epsilonPer(run.epsilon, run.unit)),
  );
  made.dataset.run = run.name;
  return made;
}

function progress(name, done, all) {
  if (typeof done !== "number" || !all) return "–";
  if (done >= all) return `${all} of ${all}`;
  return [element("progress", { max: all, value: done, "aria-label": `Rounds of ${name}` }), ` ${done} of ${all}`];
}

function compareForm(names) {
  const first = choice("first-run", "Run", names, names[0]);
  const second = choice("second-run", "against run", names, names[1]);
  const go = (event) => {
    event.preventDefault();
    const chosen = [first, second].map((one) => encodeURIComponent(one.querySelector("select").value));
    location.hash = `compare/${chosen.join("/")}`;
  };
  const button = element("button", { type: "submit", class: "main" }, "Compare");
  return element(
    "section",
    {},
    element("h2", {}, "Compare two runs"),
    element("form", { class: "line", onsubmit: go }, first, second, button),
  );
}

async function one(section, name) {
  title(section, name, back(), element("p", { class: "soft" }, "Reading the run …"));
  let run;
  try {
    run = await readRun(name);
  } catch (error) {
    title(
      section,
      name,
      back(),
      notice("bad", error.status === 404 ? "There is no such run here; the list has all of them." : error.message),
    );
    return null;
  }
  const place = element("div");
  title(section, name, back(), place);
  fill(place, details(run));
  if (run.state !== "running") return null;
  return every(POLL, async () => {
    try {
      const now = await readRun(name, run);
      if (now.rounds.length !== run.rounds.length || now.state !== run.state) fill(place, details(now));
      run = now;
    } catch (error) {
      place.prepend(notice("bad", error.message));
      return false;
    }
    return run.state === "running";
  });
}

function back() {
  return element("p", {}, element("a", { href: "#runs" }, "← All runs"));
}

function details(run) {
  const { results } = run;
  return [
    live(run),
    results && element("p", { class: "soft" }, aboutData(results)),
    results && tiles(results),
    results &&
      element(
        "p",
        {},
        element("a", { href: `#privacy/${encodeURIComponent(run.name)}` }, "Claim card, budgets and audit of this run"),
      ),
    results && systems(results),
    element("div", { class: "charts" }, learningCurve([run]), spentCurve(run), results && deciles(results)),
    results?.config && configuration(results.config),
  ];
}

function live(run) {
  const last = run.rounds.at(-1);
  if (run.state !== "running") {
    const cut =
      run.state === "stopped"
        ? `It stopped after round ${last?.round ?? 0}; start the same command again to go on.`
        : "";
    return cut && notice("info", cut);
  }
  if (!last) return notice("info", "It runs; its first round is not done yet.");
  const times = run.rounds
    .filter((one) => one.round > 0)
    .slice(-5)
    .map((one) => one.seconds);
  const each = times.length ? times.reduce((sum, one) => sum + one, 0) / times.length : null;
  const refused = Object.entries(last.refused ?? {})
    .map(([code, often]) => `${often} × ${code}`)
    .join(", ");
  return element(
    "div",
    { class: "panel live" },
    element("h2", {}, `Running: round ${last.round} of ${last.rounds}`),
    element("progress", { max: last.rounds, value: last.round, "aria-label": "Rounds done" }),
    element(
      "p",
      {},
      `${last.answered} of ${last.asked} clients answered`,
      typeof last.epsilon === "number" && run.unit && `; ${epsilonPer(last.epsilon, run.unit)} spent`,
      refused ? `; refused: ${refused}` : "",
      each && `; ${decimal(each, 1)} s a round, about ${seconds(each * (last.rounds - last.round))} left`,
    ),
  );
}

function aboutData({ dataset: data, protocol, seed }) {
  const sizes = `${count(data.users)} users, ${count(data.items)} items, ${count(data.interactions)} interactions`;
  return `${data.name}: ${sizes}; protocol ${protocol}, seed ${seed}`;
}

function tiles(results) {
  const { privacy } = results;
  const none = privacy.mechanism === "none";
  const ours = results.systems[OURS];
  const shown = columns(results).filter(([path]) =>
    ["warm/NDCG@10", "cold_items/NDCG@20", "cold_users/0/NDCG@20"].includes(path),
  );
  return element(
    "div",
    { class: "tiles" },
    none
      ? tile("NO PRIVACY", "no claim is made", "alert")
      : tile(`ε = ${decimal(privacy.epsilon, 2)}`, `per ${privacy.unit}, at δ = ${small(privacy.delta)}`),
    ours &&
      shown.map(
        ([path, label]) =>
          figure(ours, path) &&
          tile(decimal(figure(ours, path).mean), `${OURS}, ${label} ${interval(figure(ours, path))}`),
      ),
  );
}

function systems(results) {
  const shown = columns(results);
  const winners = Object.fromEntries(shown.map(([path]) => [path, best(results, path)]));
  const rows = Object.entries(results.systems).map(([name, system]) => ({
    class: name === OURS ? "ours" : name === UNTRAINED ? "untrained" : null,
    cells: [
      name,
      ...shown.map(([path]) => {
        const found = figure(system, path);
        return found
          ? [
              element(winners[path].has(name) ? "b" : "span", {}, decimal(found.mean)),
              element("small", {}, interval(found)),
            ]
          : "–";
      }),
    ],
  }));
  return element(
    "section",
    {},
    element("h2", {}, "Every system, the same cases"),
    table("Figures of every system", ["system", ...shown.map(([, label]) => label)], rows),
    element(
      "p",
      { class: "small soft" },
      "Mean and 95 % bootstrap interval over users; bold: best of the column, random excepted. " +
        `h: how many interactions of a new user are known. ${UNTRAINED}: the same language model, untrained.`,
    ),
  );
}

function configuration(config) {
  const rows = Object.entries(config)
    .filter(([key]) => key !== "run.directory")
    .map(([key, value]) => [key, String(value)]);
  return element(
    "details",
    {},
    element("summary", {}, `All ${rows.length} settings, as resolved`),
    table("Configuration", ["setting", "value"], rows, "text"),
  );
}

async function two(section, names) {
  title(section, "Two runs", back(), element("p", { class: "soft" }, "Reading both …"));
  try {
    const runs = await Promise.all(names.slice(0, 2).map((name) => readRun(name)));
    title(section, "Two runs", back(), comparison(runs));
  } catch (error) {
    const words =
      error.status === 404 ? "One of the two runs is not here any more; choose again from the list." : error.message;
    title(section, "Two runs", back(), notice("bad", words));
  }
}

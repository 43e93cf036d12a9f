// What each client of a run has spent of its budget and has left, from the run's ledger. It computes no epsilon.

import { drawn, element, fill, notice, table } from "./elements.js";
import { count, decimal } from "./figures.js";

const SHOWN = 25; // clients of the table before a person asks for more

/** The section of a run's budgets; nothing for a run without privacy. */
export function budgets(run) {
  if (run.results?.privacy.mechanism === "none") return null;
  const heading = element("h2", {}, "Budget of every client");
  const clients = [...(run.ledger?.clients ?? [])].sort((a, b) => b.epsilon - a.epsilon);
  const none = "No ledger is told for this run: no client was charged, or its folder has no ledger.jsonl.";
  if (!clients.length) return element("section", {}, heading, notice("info", none));
  const unit = run.results?.privacy.unit ?? run.ledger.unit ?? "unit of the claim";
  const charged = count(run.ledger.clients_in_all ?? clients.length);
  return element(
    "section",
    {},
    heading,
    element("p", {}, `${charged} clients were charged; those that spent most come first.`),
    found(clients, unit),
  );
}

/** The field that finds a client, and the table below it. */
function found(clients, unit) {
  const place = element("div");
  let shown = SHOWN;
  const more = () => {
    shown += 4 * SHOWN;
    draw();
  };
  const draw = () => {
    const text = field.value.trim().toLowerCase();
    const kept = clients.filter((one) => String(one.client).toLowerCase().includes(text));
    const heads = ["client", "spent and left", `ε spent per ${unit}`, `ε left per ${unit}`];
    const left = kept.length - shown;
    fill(
      place,
      kept.length
        ? table("Budget of every client", heads, kept.slice(0, shown).map(budgetRow))
        : element("p", {}, "No client of this name; type less of it."),
      left > 0 && element("button", { type: "button", onclick: more }, `Show more (${count(left)} left)`),
    );
  };
  const field = element("input", { id: "client", type: "search", autocomplete: "off", oninput: () => draw() });
  draw();
  const label = element("label", { for: "client" }, "Find a client");
  return [element("div", { class: "field" }, label, field), place];
}

function budgetRow(one) {
  const { budget } = one;
  const share = Math.min(1, one.epsilon / budget);
  const percent = `${Math.floor(100 * share)} %`; // down: 100 % means that nothing is left
  const bar = drawn(
    "svg",
    {
      class: "budget",
      viewBox: "0 0 120 10",
      width: 120,
      height: 10,
      role: "img",
      "aria-label": `${percent} of the budget is spent`,
    },
    drawn("rect", { class: "left", width: 120, height: 10, rx: 3 }),
    drawn("rect", { class: share > 0.9 ? "spent much" : "spent", width: 120 * share, height: 10, rx: 3 }),
  );
  return [one.client, [`${percent} `, bar], decimal(one.epsilon, 3), decimal(Math.max(0, budget - one.epsilon), 3)];
}

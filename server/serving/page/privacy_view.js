// The third view: what is promised to whom, what of it is spent, and what an audit found. Words come from the run.

import { auditReport } from "./audit_report.js";
import { budgets } from "./budgets.js";
import { bullets, choice, element, fill, notice, table, tile } from "./elements.js";
import { decimal, small } from "./figures.js";
import { readRun } from "./runs_view.js";
import { ask } from "./service.js";

const SERVED = "(the model that is served)";
const RELATIONS = { add_remove: "adding or removing one", replace_one: "replacing one" };
const WEAK = 10; // an epsilon above it promises little

export function privacyView(section) {
  async function show(kind, [name] = []) {
    const place = element("div", {}, element("p", { class: "soft" }, "Reading …"));
    fill(section, element("h1", { id: "privacy-title", tabindex: "-1" }, "Privacy"), place);
    const names = await runNames();
    const first = name ?? (kind === "served" ? SERVED : (names[1] ?? SERVED));
    const card = element("div");
    const go = (chosen) => (location.hash = chosen === SERVED ? "served" : `privacy/${encodeURIComponent(chosen)}`);
    fill(place, choice("privacy-run", "What is promised by", names, first, go), card);
    fill(card, await cardOf(first));
  }
  return { title: "Privacy", show, retry: show };
}

async function runNames() {
  try {
    return [SERVED, ...((await ask("/v1/runs")).runs ?? []).map((run) => run.name)];
  } catch {
    return [SERVED]; // without runs, the served model still has its claim; its card tells what is wrong
  }
}

async function cardOf(name) {
  try {
    if (name === SERVED) {
      const manifest = await ask("/v1/bundle");
      return claim(manifest.privacy ?? manifest.manifest?.privacy ?? null);
    }
    const run = await readRun(name);
    const promised = run.results
      ? claim(run.results.privacy)
      : notice("info", "This run has no results yet; its claim is written when it is finished.");
    return [promised, budgets(run), auditReport(run.audit), questions(run.claim_card ?? run.audit?.claim_card)];
  } catch (error) {
    const words = error.status === 404 ? "There is no such run here; choose another one above." : error.message;
    return notice("bad", words);
  }
}

function claim(privacy) {
  if (!privacy || (privacy.mechanism !== "none" && typeof privacy.epsilon !== "number"))
    return notice(
      "info",
      "No claim is told here. Start the server with --runs FOLDER to see the claim cards of its runs.",
    );
  const heading = element("h2", {}, "Claim card");
  if (privacy.mechanism === "none") {
    return element(
      "section",
      { class: "panel" },
      heading,
      element("div", { class: "tiles" }, tile("NO PRIVACY", "no claim is made", "alert")),
      element("p", {}, privacy.trust),
    );
  }
  const { unit } = privacy;
  return element(
    "section",
    { class: "panel" },
    heading,
    element("div", { class: "tiles" }, claimTiles(privacy)),
    element(
      "dl",
      {},
      [
        ["Unit", unit === "user" ? "user" : `${unit} (not per user)`],
        ["Relation", privacy.relation && `${privacy.relation}: ${RELATIONS[privacy.relation] ?? ""} ${unit}`],
        ["ε, δ", `${Number(privacy.epsilon.toPrecision(6))} per ${unit}, at δ = ${small(privacy.delta)}`],
        ["Accountant", privacy.accountant],
        ["Against whom", privacy.trust],
        ["Noise added by", privacy.noise_added_by],
      ]
        .filter(([, value]) => value)
        .map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
    ),
    listed("What is not covered", privacy.not_covered),
    listed("The claim assumes", privacy.assumptions),
    listed("Notes", privacy.notes),
  );
}

function claimTiles(privacy) {
  const { unit } = privacy;
  const tiles = [
    tile(
      `ε = ${decimal(privacy.epsilon, 2)}`,
      `per ${unit}${unit === "user" ? "" : " (not per user)"}, at δ = ${small(privacy.delta)}`,
    ),
  ];
  const weak = (epsilon) => (epsilon > WEAK ? ", too large to promise much" : "");
  if (typeof privacy.user_epsilon === "number") {
    tiles.push(
      tile(
        `ε = ${decimal(privacy.user_epsilon, 2)}`,
        `per user of at most ${privacy.max_records} records${weak(privacy.user_epsilon)}`,
        weak(privacy.user_epsilon) && "alert",
      ),
    );
  } else if (unit !== "user") {
    tiles.push(tile("–", "per user no epsilon was computed", "alert"));
  }
  if (typeof privacy.interaction_epsilon === "number") {
    tiles.push(
      tile(
        `ε = ${decimal(privacy.interaction_epsilon, 2)}`,
        `per interaction${weak(privacy.interaction_epsilon)}`,
        weak(privacy.interaction_epsilon) && "alert",
      ),
    );
  }
  if (typeof privacy.target_epsilon === "number")
    tiles.push(tile(`ε ≤ ${privacy.target_epsilon}`, `budget per ${unit}`));
  return tiles;
}

function listed(heading, lines) {
  return lines?.length ? [element("h3", {}, heading), bullets(lines)] : null;
}

function questions(card) {
  if (!card?.questions?.length) return null;
  const rows = card.questions.map((one) => [one.question, one.answer]);
  return element(
    "details",
    {},
    element("summary", {}, `The claim card's ${rows.length} questions and answers`),
    table("Questions and answers", ["question", "answer"], rows, "text long"),
  );
}

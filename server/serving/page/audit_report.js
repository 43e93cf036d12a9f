// What an audit found: its verdict, every check and the attack, from audit.json. It judges nothing itself.

import { chart } from "./charts.js";
import { element, notice, table } from "./elements.js";
import { decimal } from "./figures.js";

/** The section of audit.json; of null, how to make one. */
export function auditReport(found) {
  const heading = element("h2", {}, "Audit");
  const none = "This run was not audited. hushrec audit RUN tests its claim and writes audit.json; it is shown here.";
  if (!found) return element("section", {}, heading, notice("info", none));
  const order = ["VIOLATED", "holds", "not tested"];
  const kinds = { VIOLATED: "below", holds: "above" };
  const checks = [...(found.checks ?? [])].sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict));
  const rows = checks.map((one) => [
    one.name,
    element("span", { class: kinds[one.verdict] ?? "soft" }, one.verdict),
    one.claim,
    one.measured,
  ]);
  return element(
    "section",
    {},
    heading,
    notice(found.violated?.length ? "bad" : "good", found.summary ?? ""),
    rows.length
      ? table("Every check", ["check", "verdict", "what must hold", "what was found"], rows, "text long")
      : null,
    attack(found.attack),
  );
}

function attack(found) {
  const items = found?.films ?? [];
  const curves = Object.entries(found?.curves ?? {});
  if (!items.length && !curves.length) return null;
  return [
    element("h2", {}, "The attack demo"),
    items.length
      ? [
          element(
            "p",
            {},
            "Where an attacker who sees the updates of one demo user ranks the items that she may have used: " +
              "the more used items stand at the top, the more leaks.",
          ),
          table(
            "The demo user's items",
            Object.keys(items[0]).map((head) => head.replaceAll("_", " ")),
            items.map((item) => ({
              class: item.watched === true ? "ours" : null,
              cells: Object.values(item).map(worded),
            })),
          ),
        ]
      : null,
    curves.length ? roc(curves) : null,
  ];
}

function roc(curves) {
  const series = curves.map(([name, points]) => ({ name, points: points.map(([x, y]) => ({ x, y })) }));
  series.push({
    name: "guessing",
    points: [
      { x: 0, y: 0 },
      { x: 1, y: 1 },
    ],
  });
  const thin = series.map((one) => ({ ...one, points: thinned(one.points, 60) }));
  return element(
    "div",
    { class: "charts" },
    chart({
      title: "ROC of the attack",
      x: { label: "false positive rate" },
      y: { label: "true positive rate" },
      series: thin,
      note: "True positive rate: what the attack finds; on the line of guessing it finds nothing.",
    }),
  );
}

function thinned(points, most) {
  const step = Math.ceil(points.length / most);
  return points.filter((_, place) => place % step === 0 || place === points.length - 1);
}

function worded(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (value === null || value === undefined) return "–";
  return typeof value === "number" && !Number.isInteger(value) ? decimal(value) : String(value);
}

// Line charts as SVG, each with its legend in words and its data as a table. It knows nothing of runs.

import { drawn, element, fill, table } from "./elements.js";
import { decimal } from "./figures.js";

const HEIGHT = 260;
const ROOM = { left: 52, right: 14, top: 26, bottom: 44 };
const MOST_MARKS = 24; // of a line; with more they hide it
const STYLES = 6; // classes s0 to s5 of the style sheet: a colour and a dash each
const MARKS = ["circle", "square", "diamond", "triangle", "ring", "bar"];

/**
 * A figure with a chart.
 *
 * `series` is [{name, points: [{x, y, low, high, label}]}]; low and high draw an interval, label names a point in the
 * table; `flat: true` draws a level line for a single y, `loose: true` marks without a line.
 * x: {label, log, whole, ticks}; y: {label}.
 */
export function chart({ title, x, y, series, note = "" }) {
  const shown = series.filter((one) => one.points.length);
  const canvas = element("div", { class: "canvas" });
  const draw = () => fill(canvas, drawing(title, x, y, shown, Math.max(280, canvas.clientWidth)));
  const watcher = new ResizeObserver(draw);
  watcher.observe(canvas);
  return element(
    "figure",
    { class: "chart" },
    element("figcaption", {}, title),
    canvas,
    shown.length > 1 || shown.some((one) => one.flat) ? legend(shown) : null,
    note && element("p", { class: "small soft" }, note),
    behind(title, x, y, shown),
  );
}

function legend(series) {
  return element(
    "ul",
    { class: "legend" },
    series.map((one, place) => {
      const sample = drawn(
        "svg",
        { viewBox: "0 0 34 12", width: 34, height: 12, "aria-hidden": "true" },
        drawn("path", { d: "M1 6H33", class: `curve s${place % STYLES}` }),
        one.flat ? null : mark(place, 17, 6),
      );
      return element("li", {}, sample, one.name);
    }),
  );
}

function behind(title, x, y, series) {
  const rows = series.flatMap((one) =>
    one.points.map((point) => [
      one.name,
      point.label ?? (one.flat ? "–" : x.whole ? String(point.x) : decimal(point.x, 2)),
      decimal(point.y, 4),
      point.low === undefined ? "–" : `[${decimal(point.low, 4)}, ${decimal(point.high, 4)}]`,
    ]),
  );
  const hasIntervals = series.some((one) => one.points.some((point) => point.low !== undefined));
  const heads = ["line", x.label, y.label, "95 % interval"].slice(0, hasIntervals ? 4 : 3);
  const inner = table(
    `Data of: ${title}`,
    heads,
    rows.map((row) => row.slice(0, heads.length)),
  );
  return element("details", {}, element("summary", {}, "The data as a table"), inner);
}

function drawing(title, x, y, series, width) {
  const points = series.flatMap((one) => one.points);
  const sloped = series.filter((one) => !one.flat).flatMap((one) => one.points);
  const across = scale(
    sloped.map((point) => point.x),
    x,
    ROOM.left,
    width - ROOM.right,
    Math.floor(width / 60),
  );
  const heights = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
  const up = scale(heights, { ...y, padded: true }, HEIGHT - ROOM.bottom, ROOM.top, 5);
  return drawn(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": spoken(title, series) },
    up.ticks.map((tick) => [
      drawn("path", { class: "grid", d: `M${ROOM.left} ${up.at(tick)}H${width - ROOM.right}` }),
      drawn("text", { x: ROOM.left - 6, y: up.at(tick) + 4, "text-anchor": "end" }, up.write(tick)),
    ]),
    drawn("text", { class: "axis", x: 4, y: 12 }, y.label),
    across.ticks.map((tick) =>
      drawn("text", { x: across.at(tick), y: HEIGHT - ROOM.bottom + 18, "text-anchor": "middle" }, across.write(tick)),
    ),
    drawn(
      "text",
      { class: "axis", x: (ROOM.left + width - ROOM.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" },
      x.label,
    ),
    series.map((one, place) => (one.flat ? level(one, place, up, width) : curve(one, place, across, up))),
  );
}

function spoken(title, series) {
  const told = series.map((one) => {
    const ys = one.points.map((point) => point.y);
    return `${one.name}: ${ys.length > 1 ? `from ${decimal(ys[0])} to ${decimal(ys.at(-1))}` : decimal(ys[0])}`;
  });
  return `${title}. ${told.join("; ")}. The data stand in the table below.`;
}

function level(one, place, up, width) {
  const d = `M${ROOM.left} ${up.at(one.points[0].y)}H${width - ROOM.right}`;
  return drawn("path", { class: `curve s${place % STYLES} flat`, d });
}

function curve(one, place, across, up) {
  const spots = one.points.map((point) => [across.at(point.x), up.at(point.y), point]);
  const d = spots.map(([left, top], number) => `${number ? "L" : "M"}${left.toFixed(1)} ${top.toFixed(1)}`).join("");
  return drawn(
    "g",
    {},
    one.loose ? null : drawn("path", { class: `curve s${place % STYLES}`, d }),
    spots.map(([left, , point]) =>
      point.low === undefined
        ? null
        : drawn("path", {
            class: `whisker s${place % STYLES}`,
            d: whisker(left, up.at(point.low), up.at(point.high)),
          }),
    ),
    spots.length > MOST_MARKS
      ? null
      : spots.map(([left, top, point]) => {
          const words = [one.name, point.label, decimal(point.y, 4)].filter(Boolean).join(", ");
          const made = mark(place, left, top);
          made.append(drawn("title", {}, words));
          return made;
        }),
  );
}

function whisker(left, low, high) {
  return `M${left - 3} ${low}h6M${left} ${low}V${high}M${left - 3} ${high}h6`;
}

function mark(place, left, top) {
  const style = place % STYLES;
  const shapes = {
    circle: "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    square: "m-3.5-3.5h7v7h-7z",
    diamond: "m0-5l5 5l-5 5l-5-5z",
    triangle: "m0-5l4.6 8h-9.2z",
    ring: "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    bar: "m-1.5-5h3v10h-3z",
  };
  return drawn("path", { class: `mark s${style} ${MARKS[style]}`, d: `M${left} ${top}${shapes[MARKS[style]]}` });
}

function scale(values, { log = false, whole = false, padded = false, ticks: given = null }, from, to, most) {
  const turn = log ? Math.log10 : (value) => value;
  let low = Math.min(...values.map(turn));
  let high = Math.max(...values.map(turn));
  if (padded && low >= 0 && (low < 0.6 * high || low === high)) [low, high] = [0, high || 0.1];
  if (low === high) [low, high] = [low - (log ? 0.5 : whole ? 1 : 0.05), high + (log ? 0.5 : whole ? 1 : 0.05)];
  const ticks = given ?? (log ? logTicks(low, high) : evenTicks(low, high, most, { whole, padded }));
  if (padded) [low, high] = [Math.min(low, ticks[0]), Math.max(high, ticks.at(-1))];
  if (log) [low, high] = [low - 0.05 * (high - low), high + 0.05 * (high - low)];
  const at = (value) => from + ((turn(value) - low) / (high - low)) * (to - from);
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1;
  const digits = log || whole ? 0 : Math.min(4, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)));
  return { at, ticks, write: (tick) => (log ? String(tick) : tick.toFixed(digits)) };
}

function evenTicks(low, high, most, { whole, padded }) {
  const rough = (high - low) / Math.max(2, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const ticks = [];
  const [first, last] = padded
    ? [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)]
    : [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  for (let place = first; place <= last; place += 1) ticks.push(place * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const steps = high - low > 2.5 ? [1] : [1, 2, 5];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const one of steps) {
      const tick = Number((one * 10 ** power).toPrecision(1));
      if (Math.log10(tick) >= low - 0.05 && Math.log10(tick) <= high + 0.05) ticks.push(tick);
    }
  }
  return ticks.length ? ticks : [Number((10 ** low).toPrecision(2))];
}

// What the figures of results.json are called and how they are written. It computes none but a difference of two means.

export const OURS = "hushrec";
export const UNTRAINED = "frozen_lm";
const NEVER_BEST = ["random"]; // everyone gets other items: the highest coverage of all, and no merit
const COLUMNS = [
  ["warm/HR@10", "HR@10"],
  ["warm/NDCG@10", "NDCG@10"],
  ["warm/sampled99_HR@10", "99-neg. HR@10"],
  ["warm/sampled99_NDCG@10", "99-neg. NDCG@10"],
  ["warm/AUC", "AUC"],
  ["tail/NDCG@10", "tail NDCG@10"],
  ["cold_items/NDCG@20", "cold items NDCG@20"],
  ["cold_items/Recall@20", "cold items Recall@20"],
  ["cold_users/0/NDCG@20", "cold users h=0 NDCG@20"],
  ["cold_users/1/NDCG@20", "cold users h=1 NDCG@20"],
  ["cold_users/5/NDCG@20", "cold users h=5 NDCG@20"],
  ["coverage@10", "coverage@10"],
];

/** {mean, low, high} at a path of one system, or null. */
export function figure(system, path) {
  const found = path.split("/").reduce((one, part) => one?.[part], system);
  return typeof found?.mean === "number" ? found : null;
}

/** [path, label] of every figure that any system of any of the runs has. */
export function columns(...runs) {
  const systems = runs.flatMap((one) => Object.values(one.systems ?? {}));
  return COLUMNS.filter(([path]) => systems.some((system) => figure(system, path)));
}

/** The systems with the highest mean of a figure, as printed. */
export function best(results, path) {
  const means = Object.entries(results.systems)
    .filter(([name, system]) => !NEVER_BEST.includes(name) && figure(system, path))
    .map(([name, system]) => [name, figure(system, path).mean]);
  const highest = Math.max(0, ...means.map(([, mean]) => mean));
  return new Set(means.filter(([, mean]) => mean >= highest - 5e-5).map(([name]) => name));
}

export function decimal(value, digits = 3) {
  return typeof value === "number" ? value.toFixed(digits) : "–";
}

/** A difference with its sign, without a negative zero. */
export function signed(value) {
  const written = value.toFixed(3);
  if (Number(written) === 0) return "0.000";
  return value > 0 ? `+${written}` : written.replace("-", "−");
}

export function interval(found) {
  return found ? `[${decimal(found.low)}, ${decimal(found.high)}]` : "";
}

export function count(value) {
  return typeof value === "number" ? value.toLocaleString("en") : "–";
}

/** A small number such as a delta, as people write it. */
export function small(value) {
  if (typeof value !== "number") return "–";
  return value > 0 && value < 0.001 ? value.toExponential() : String(value);
}

export function seconds(value) {
  if (value < 90) return `${Math.round(value)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** "ε = 7.99 per record", never without its unit; words where nothing is claimed or the unit is not told. */
export function epsilonPer(epsilon, unit) {
  if (typeof epsilon !== "number") return "no privacy claim";
  return unit ? `ε = ${decimal(epsilon, 2)} per ${unit}` : "its unit is not told";
}

/** The key and the name of what was validated in the rounds, such as validation_NDCG@10. */
export function validated(rounds) {
  const keys = rounds.flatMap((line) => Object.keys(line)).filter((key) => key.startsWith("validation_"));
  return keys[0] ?? null;
}

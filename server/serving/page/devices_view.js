// The fourth view: the devices of each federation and what they refused. It enrols and revokes nobody.

import { element, fill, notice, table, tile } from "./elements.js";
import { count, decimal } from "./figures.js";
import { ask, every } from "./service.js";

const POLL = 10; // seconds
const KINDS = { online: "above", revoked: "below", offline: "soft", unknown: "soft" };
const RENEW_WITHIN = 30; // days
const SHOWN = 200; // devices of a table
const MEANINGS = {
  BUDGET_EXHAUSTED: "one round more would pass ε: the device has done its part",
  NOT_NOW: "the policy of the device's owner: nothing to do",
  NOT_PINNED: "a setting differs from what the device pinned: restore it, or send a new invitation",
  APP_CHANGED: "the app is not the one that the device pinned: restore it and the versions",
  REPLAYED: "a round that it had answered was asked again in another way: normal after an old server copy",
  LEDGER_CHANGED: "a device's ledger was cut or exchanged: stop that device and restore its newest ledger",
};

export function devicesView(section) {
  let stop = null;
  async function show() {
    hide();
    const place = element("div", {}, element("p", { class: "soft" }, "Reading …"));
    fill(section, element("h1", { id: "devices-title", tabindex: "-1" }, "Devices"), place);
    let last = "";
    async function poll() {
      try {
        const found = (await ask("/v1/federations")).federations ?? [];
        const now = JSON.stringify(found);
        if (now !== last) fill(place, found.length ? found.map(federation) : none());
        last = now;
        return found.length > 0;
      } catch (error) {
        fill(place, error.status === 404 ? none() : notice("bad", error.message, "Try again", show));
        return false;
      }
    }
    const more = await poll();
    if (more && section.contains(place) && !section.hidden) stop = every(POLL, poll);
  }
  function hide() {
    stop?.();
    stop = null;
  }
  return { title: "Devices", show, hide, retry: show };
}

function none() {
  return notice(
    "info",
    "No federation is shown. Start the server with --federations FOLDER: what hushrec server init made, or its parent.",
  );
}

function federation(found) {
  const heading = element("h2", {}, found.name ?? found.federation ?? "federation");
  const damaged = `Its folder ${found.error}. Look at it with hushrec server status.`;
  if (found.error) return element("section", {}, heading, notice("bad", damaged));
  const devices = found.devices ?? Object.entries(found.nodes ?? {}).map(([name, state]) => ({ name, state }));
  const days = found.certificate_days_left;
  return element(
    "section",
    {},
    heading,
    element("div", { class: "tiles" }, tiles(found, devices)),
    found.running === false && notice("bad", "It is not running. Start it with hushrec server start FOLDER."),
    typeof days === "number" &&
      days < RENEW_WITHIN &&
      notice("bad", `Its certificate ends in ${days} days. Renew it with hushrec server renew FOLDER.`),
    deviceTable(devices),
    refusals(found.refused ?? {}),
  );
}

function tiles(found, devices) {
  const enrolled = devices.filter((one) => one.state !== "revoked").length;
  const online = devices.filter((one) => one.state === "online").length;
  const refused = Object.values(found.refused ?? {}).reduce((sum, one) => sum + one, 0);
  const spent = found.last_round?.epsilon;
  const budget = typeof found.budget === "number" ? ` of ${decimal(found.budget, 2)}` : "";
  const told = typeof spent === "number" && found.unit; // an epsilon without its unit says nothing
  return [
    tile(`${online} of ${enrolled}`, "enrolled devices are online"),
    tile(found.rounds ? `${found.round ?? 0} of ${found.rounds}` : "–", "rounds done"),
    tile(count(refused), "refusals"),
    told && tile(`ε = ${decimal(spent, 2)}${budget}`, `per ${found.unit}, of the device that spent most`),
  ];
}

function deviceTable(devices) {
  if (!devices.length) return notice("info", "No device is enrolled yet: hushrec server enroll lets one take part.");
  const rows = devices
    .slice(0, SHOWN)
    .map((one) => [one.name, element("span", { class: KINDS[one.state] ?? "" }, one.state ?? "unknown")]);
  const rest = `${count(devices.length - SHOWN)} more are not shown; hushrec server list has all.`;
  return [
    table("All devices", ["device", "state"], rows, "text"),
    devices.length > SHOWN && element("p", { class: "small soft" }, rest),
  ];
}

function refusals(refused) {
  const rows = Object.entries(refused)
    .sort(([, a], [, b]) => b - a)
    .map(([code, times]) => [code, count(times), MEANINGS[code] ?? "docs/deployment.md has cause and remedy"]);
  return [
    element("h3", {}, "What devices refused"),
    rows.length ? table("Refusals", ["code", "times", "what it means"], rows, "text") : element("p", {}, "Nothing."),
  ];
}

// The frame: which view is shown, by what stands after # in the address, and the token. It asks the service nothing.

import { devicesView } from "./devices_view.js";
import { privacyView } from "./privacy_view.js";
import { runsView } from "./runs_view.js";
import { keepToken, token } from "./service.js";
import { tryView } from "./try_view.js";

const section = (id) => document.getElementById(id);
const views = {
  try: tryView(section("try")),
  runs: runsView(section("runs")),
  privacy: privacyView(section("privacy")),
  devices: devicesView(section("devices")),
};
const WHERE = { run: "runs", compare: "runs", served: "privacy" }; // pages that belong to a view of another name
const form = section("token-form");
const forget = section("forget-token");
let shown = null;

function place() {
  const [kind, ...names] = location.hash.slice(1).split("/");
  const view = WHERE[kind] ?? kind;
  return view in views
    ? { view, kind, names: names.filter(Boolean).map(decoded) }
    : { view: "try", kind: "try", names: [] };
}

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

async function show({ focus = true } = {}) {
  if (location.hash === "#content") return; // the link that skips to the content
  const { view, kind, names } = place();
  if (shown && shown !== view) views[shown].hide?.();
  shown = view;
  document.title = `${views[view].title} · hushrec`;
  for (const name of Object.keys(views)) section(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const done = views[view].show(kind, names);
  if (focus) section(`${view}-title`)?.focus();
  await done;
}

document.addEventListener("token-needed", ({ detail }) => {
  const unknown = "That token was refused. Look whether all of it was entered.";
  const refused = detail ? `Here ${detail}. Enter one that has it.` : unknown;
  section("token-told").textContent = token() ? refused : "";
  if (form.hidden) {
    form.hidden = false;
    section("token").focus();
  }
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(section("token").value.trim());
  section("token").value = "";
  form.hidden = true;
  forget.hidden = false;
  const { view, kind, names } = place();
  views[view].retry(kind, names);
});

forget.addEventListener("click", () => {
  keepToken("");
  location.reload();
});

forget.hidden = !token();
window.addEventListener("hashchange", () => show());
show({ focus: false });

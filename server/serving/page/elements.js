// Elements and tables made of text. Nothing here, or anywhere on the page, reads markup from a string.

const SVG = "http://www.w3.org/2000/svg";

/** An element; strings among `content` become text, null and false are left out; `on...` attributes are listeners. */
export function element(tag, attributes = {}, ...content) {
  return filled(document.createElement(tag), attributes, content);
}

/** The same for SVG. */
export function drawn(tag, attributes = {}, ...content) {
  return filled(document.createElementNS(SVG, tag), attributes, content);
}

function filled(made, attributes, content) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...present(content));
  return made;
}

function present(content) {
  return content
    .flat(Infinity)
    .filter((one) => one !== null && one !== undefined && one !== false)
    .map(asNode);
}

function asNode(one) {
  return one instanceof Node ? one : document.createTextNode(String(one));
}

/** Put `content` in place of what `parent` holds; the focus, and what was unfolded, stay where they were. */
export function fill(parent, ...content) {
  const key = parent.contains(document.activeElement) ? focusKey(document.activeElement) : "";
  const unfolded = [...parent.querySelectorAll("details")].map((one) => one.open);
  parent.replaceChildren(...present(content));
  for (const [place, one] of [...parent.querySelectorAll("details")].entries()) one.open = unfolded[place] ?? false;
  if (key) [...parent.querySelectorAll("h1, a, button, input, select")].find((one) => focusKey(one) === key)?.focus();
}

function focusKey(one) {
  return one.id || one.getAttribute("href") || one.getAttribute("aria-label") || "";
}

/** A table that scrolls by itself where the page is narrow; a row is [head, ...cells], or {cells, class}. */
export function table(label, heads, rows, kind = "") {
  const head = element(
    "thead",
    {},
    element(
      "tr",
      {},
      heads.map((one) => element("th", { scope: "col" }, one)),
    ),
  );
  const body = rows.map((row) => {
    const [first, ...rest] = row.cells ?? row;
    const cells = rest.map((cell) => element("td", {}, cell));
    return element("tr", { class: row.class }, element("th", { scope: "row" }, first), cells);
  });
  const inner = element("table", { class: kind || null }, head, element("tbody", {}, body));
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label }, inner);
}

/** A box with a sentence and, where there is something to do, a button. */
export function notice(kind, sentence, label = "", action = null) {
  const button = action && element("button", { type: "button", onclick: action }, label);
  const role = kind === "bad" ? "alert" : null;
  return element("div", { class: `notice ${kind}`, role }, element("p", {}, sentence), button);
}

/** A figure with what it means below. */
export function tile(value, label, kind = "") {
  return element("div", { class: `tile ${kind}` }, element("b", {}, value), element("span", {}, label));
}

/** A list of sentences. */
export function bullets(lines) {
  return element(
    "ul",
    {},
    lines.map((line) => element("li", {}, line)),
  );
}

/** A select with its label; `names` are values, or [value, text]. */
export function choice(id, label, names, chosen, onchange) {
  const options = names.map((one) => {
    const [value, text] = Array.isArray(one) ? one : [one, one];
    return element("option", { value, selected: value === chosen }, text);
  });
  const field = element("select", { id, onchange: (event) => onchange?.(event.target.value) }, options);
  return element("div", { class: "field" }, element("label", { for: id }, label), field);
}

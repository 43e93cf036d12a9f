// Picking items by their titles: a combobox with a list, for keyboard and touch. It recommends nothing.

import { element, fill } from "./elements.js";
import { ask } from "./service.js";

const LIMIT = 12; // titles offered at a time
const PAUSE = 150; // milliseconds after a key before the service is asked

/** Title with its year, once. */
export function titled({ title, year }) {
  const known = Number.isInteger(year) && year > 0;
  return known && !title.includes(`(${year})`) ? `${title} (${year})` : title;
}

export class ItemPicker {
  /** `changed` is called after each change of `items`. */
  constructor(items, changed) {
    this.items = items;
    this.changed = changed;
    this.offered = [];
    this.active = -1;
    this.input = element("input", {
      id: "item",
      type: "text",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "Type a title",
      "aria-expanded": "false",
      "aria-controls": "item-list",
      "aria-autocomplete": "list",
      oninput: () => this.#search(),
      onkeydown: (event) => this.#key(event),
      onblur: () => this.#leave(),
    });
    this.list = element("ul", { id: "item-list", role: "listbox", "aria-label": "Items", hidden: true });
    this.told = element("p", { class: "small soft", role: "status" });
    this.chips = element("ul", { class: "chips", "aria-label": "Items you picked" });
    const label = element("label", { for: "item" }, "Items you liked");
    this.root = element("div", { class: "field picker" }, label, this.input, this.list, this.told, this.chips);
    this.#show();
  }

  add(item) {
    if (this.items.some((one) => one.item_id === item.item_id)) return;
    this.items.push({ item_id: item.item_id, title: item.title, year: item.year });
    this.#show();
    this.changed();
  }

  #remove(item) {
    const place = this.items.indexOf(item);
    this.items.splice(place, 1);
    this.#show();
    const left = this.chips.querySelectorAll("button");
    (left[Math.min(place, left.length - 1)] ?? this.input).focus();
    this.changed();
  }

  #show() {
    const chips = this.items.map((item) => {
      const attributes = { type: "button", "aria-label": `Remove ${titled(item)}`, onclick: () => this.#remove(item) };
      return element("li", {}, element("span", {}, titled(item)), element("button", attributes, "×"));
    });
    fill(this.chips, chips);
    this.chips.hidden = chips.length === 0;
  }

  #search() {
    clearTimeout(this.timer);
    this.asked?.abort();
    const text = this.input.value.trim();
    if (text) this.timer = setTimeout(() => this.#offer(text), PAUSE);
    else this.#close();
  }

  async #offer(text) {
    this.asked = new AbortController();
    try {
      const path = `/v1/items?search=${encodeURIComponent(text)}&limit=${LIMIT}`;
      this.offered = (await ask(path, { signal: this.asked.signal })).items ?? [];
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#close();
      this.#tell(error.message);
      return;
    }
    this.#open();
  }

  #open() {
    const options = this.offered.map((item, place) => {
      const genres = (item.genres ?? []).join(", ");
      return element(
        "li",
        {
          id: `item-${place}`,
          role: "option",
          "aria-selected": "false",
          onmousedown: (event) => this.#pick(event, place),
        },
        titled(item),
        genres && element("small", {}, ` ${genres}`),
      );
    });
    fill(this.list, options);
    const found = options.length;
    this.list.hidden = found === 0;
    this.input.setAttribute("aria-expanded", String(found > 0));
    this.#tell(
      found
        ? `${found} ${found === 1 ? "item" : "items"}; arrow keys and Enter pick one.`
        : "No item of this name. Try fewer letters of its title.",
    );
    this.#activate(found ? 0 : -1);
  }

  #close() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.offered = [];
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#tell("");
    this.#activate(-1);
  }

  /** What was told keeps its place: else the button that a person is pressing would move away beneath the pointer. */
  #leave() {
    const told = this.told.textContent;
    this.#close();
    this.#tell(told);
    this.told.classList.add("past");
  }

  #tell(words) {
    this.told.textContent = words;
    this.told.classList.remove("past");
  }

  #activate(place) {
    this.active = place;
    for (const [one, option] of [...this.list.children].entries()) {
      option.setAttribute("aria-selected", String(one === place));
      if (one === place) option.scrollIntoView({ block: "nearest" });
    }
    if (place < 0) this.input.removeAttribute("aria-activedescendant");
    else this.input.setAttribute("aria-activedescendant", `item-${place}`);
  }

  #key(event) {
    const count = this.offered.length;
    if (event.key === "Escape") {
      if (!count) this.input.value = "";
      this.#close();
    } else if (event.key === "Enter") {
      event.preventDefault(); // the form is sent by its button; here, Enter picks
      if (count) this.#pick(event, Math.max(0, this.active));
    } else if (count && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      this.#activate((this.active + (event.key === "ArrowDown" ? 1 : count - 1)) % count);
    } else if (!count && event.key === "ArrowDown") {
      this.#search();
    }
  }

  #pick(event, place) {
    event.preventDefault(); // a pressed option must not take the focus from the field
    const item = this.offered[place];
    this.input.value = "";
    this.#close();
    this.add(item);
    this.#tell(`${titled(item)} was added.`);
  }
}

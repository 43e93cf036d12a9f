// Picking films by their titles: a combobox with a list, for keyboard and touch. It recommends nothing.

import { element, fill } from "./elements.js";
import { ask } from "./service.js";

const LIMIT = 12; // titles offered at a time
const PAUSE = 150; // milliseconds after a key before the service is asked

/** Title with its year, once. */
export function titled({ title, year }) {
  const known = Number.isInteger(year) && year > 0;
  return known && !title.includes(`(${year})`) ? `${title} (${year})` : title;
}

export class FilmPicker {
  /** `changed` is called after each change of `films`. */
  constructor(films, changed) {
    this.films = films;
    this.changed = changed;
    this.offered = [];
    this.active = -1;
    this.input = element("input", {
      id: "film",
      type: "text",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "Type a title",
      "aria-expanded": "false",
      "aria-controls": "film-list",
      "aria-autocomplete": "list",
      oninput: () => this.#search(),
      onkeydown: (event) => this.#key(event),
      onblur: () => this.#close(),
    });
    this.list = element("ul", { id: "film-list", role: "listbox", "aria-label": "Films", hidden: true });
    this.told = element("p", { class: "small soft", role: "status" });
    this.chips = element("ul", { class: "chips", "aria-label": "Films you picked" });
    const label = element("label", { for: "film" }, "Films you liked");
    this.root = element("div", { class: "field picker" }, label, this.input, this.list, this.told, this.chips);
    this.#show();
  }

  add(film) {
    if (this.films.some((one) => one.item_id === film.item_id)) return;
    this.films.push({ item_id: film.item_id, title: film.title, year: film.year });
    this.#show();
    this.changed();
  }

  #remove(film) {
    const place = this.films.indexOf(film);
    this.films.splice(place, 1);
    this.#show();
    const left = this.chips.querySelectorAll("button");
    (left[Math.min(place, left.length - 1)] ?? this.input).focus();
    this.changed();
  }

  #show() {
    const chips = this.films.map((film) => {
      const attributes = { type: "button", "aria-label": `Remove ${titled(film)}`, onclick: () => this.#remove(film) };
      return element("li", {}, element("span", {}, titled(film)), element("button", attributes, "×"));
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
      this.told.textContent = error.message;
      return;
    }
    this.#open();
  }

  #open() {
    const options = this.offered.map((film, place) => {
      const genres = (film.genres ?? []).join(", ");
      return element(
        "li",
        {
          id: `film-${place}`,
          role: "option",
          "aria-selected": "false",
          onmousedown: (event) => this.#pick(event, place),
        },
        titled(film),
        genres && element("small", {}, ` ${genres}`),
      );
    });
    fill(this.list, options);
    const found = options.length;
    this.list.hidden = found === 0;
    this.input.setAttribute("aria-expanded", String(found > 0));
    this.told.textContent = found
      ? `${found} ${found === 1 ? "film" : "films"}; arrow keys and Enter pick one.`
      : "No film of this name. Try fewer letters of its title.";
    this.#activate(found ? 0 : -1);
  }

  #close() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.offered = [];
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.told.textContent = "";
    this.#activate(-1);
  }

  #activate(place) {
    this.active = place;
    for (const [one, option] of [...this.list.children].entries()) {
      option.setAttribute("aria-selected", String(one === place));
      if (one === place) option.scrollIntoView({ block: "nearest" });
    }
    if (place < 0) this.input.removeAttribute("aria-activedescendant");
    else this.input.setAttribute("aria-activedescendant", `film-${place}`);
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
    const film = this.offered[place];
    this.input.value = "";
    this.#close();
    this.add(film);
    this.told.textContent = `${titled(film)} was added.`;
  }
}

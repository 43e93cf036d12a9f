// The interest profile in words: likes and dislikes that the person reads, edits and deletes. It asks no server.

import { element, fill } from "./elements.js";

const LONGEST = 200; // characters of a phrase, as in a device's interest file
const KINDS = [
  ["likes", "Likes"],
  ["dislikes", "Dislikes"],
];

export class InterestEditor {
  /** `interests` is {likes: [str], dislikes: [str]} and changed in place; `changed` is called after each change. */
  constructor(interests, changed) {
    this.interests = interests;
    this.changed = changed;
    this.editing = null;
    this.lists = element("div", { class: "interests" });
    this.told = element("p", { class: "small soft", role: "status" });
    this.phrase = element("input", {
      id: "interest",
      maxlength: LONGEST,
      autocomplete: "off",
      onkeydown: (event) => this.#enter(event),
    });
    const buttons = KINDS.map(([kind, name]) =>
      element("button", { type: "button", onclick: () => this.#add(kind) }, `Add to ${name.toLowerCase()}`),
    );
    this.root = element(
      "fieldset",
      {},
      element("legend", {}, "Your interests"),
      element(
        "p",
        { class: "small soft" },
        "Kept in this browser tab only: they go when you close it. They are sent with a wish, and the server forgets " +
          "them with its answer.",
      ),
      this.lists,
      element(
        "div",
        { class: "field" },
        element("label", { for: "interest" }, "A new interest, in words"),
        this.phrase,
      ),
      element("div", { class: "line" }, buttons),
      this.told,
    );
    this.#show();
  }

  #enter(event) {
    if (event.key !== "Enter") return;
    event.preventDefault();
    this.#add("likes");
  }

  #add(kind) {
    const phrase = this.phrase.value.trim();
    if (!phrase) {
      this.told.textContent = "Type an interest first, such as “slow science fiction”.";
    } else if (this.#known(phrase)) {
      this.told.textContent = `“${phrase}” is there already.`;
    } else {
      this.interests[kind].push(phrase);
      this.phrase.value = "";
      this.#done(`“${phrase}” was added to your ${kind}.`);
    }
    this.phrase.focus();
  }

  #known(phrase, except = null) {
    return KINDS.some(([kind]) =>
      this.interests[kind].some(
        (one, place) =>
          one.toLowerCase() === phrase.toLowerCase() && !(except?.kind === kind && except.place === place),
      ),
    );
  }

  #done(said) {
    this.editing = null;
    this.#show();
    this.told.textContent = said;
    this.changed();
  }

  #show() {
    const lists = KINDS.map(([kind, name]) => {
      const lines = this.interests[kind].map((phrase, place) => this.#line(kind, phrase, place));
      const empty = element("p", { class: "small soft" }, "none yet");
      return element(
        "div",
        {},
        element("h3", {}, name),
        lines.length ? element("ul", { "aria-label": name }, lines) : empty,
      );
    });
    fill(this.lists, lists);
  }

  #line(kind, phrase, place) {
    if (this.editing?.kind === kind && this.editing.place === place) return this.#field(kind, phrase, place);
    const edit = {
      type: "button",
      class: "quiet",
      "aria-label": `Edit ${phrase}`,
      onclick: () => this.#edit(kind, place),
    };
    const remove = {
      type: "button",
      class: "quiet",
      "aria-label": `Delete ${phrase}`,
      onclick: () => this.#delete(kind, place),
    };
    return element(
      "li",
      {},
      element("span", {}, phrase),
      element("button", edit, "Edit"),
      element("button", remove, "Delete"),
    );
  }

  #field(kind, phrase, place) {
    const save = () => this.#save(kind, place, field.value.trim());
    const cancel = () => this.#stop(phrase);
    const keys = (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        save();
      } else if (event.key === "Escape") cancel();
    };
    const field = element("input", {
      id: "edited",
      "aria-label": `Change ${phrase}`,
      maxlength: LONGEST,
      value: phrase,
      onkeydown: keys,
    });
    return element(
      "li",
      {},
      field,
      element("button", { type: "button", onclick: save }, "Save"),
      element("button", { type: "button", class: "quiet", onclick: cancel }, "Cancel"),
    );
  }

  #edit(kind, place) {
    this.editing = { kind, place };
    this.#show();
    const field = this.lists.querySelector("#edited");
    field.focus();
    field.select();
  }

  #stop(phrase) {
    this.editing = null;
    this.#show();
    this.#focus(`Edit ${phrase}`);
  }

  #save(kind, place, phrase) {
    if (!phrase) {
      this.told.textContent = "An interest needs a word; delete it if you want none.";
    } else if (this.#known(phrase, { kind, place })) {
      this.told.textContent = `“${phrase}” is there already.`;
    } else {
      this.interests[kind][place] = phrase;
      this.#done(`Changed to “${phrase}”.`);
      this.#focus(`Edit ${phrase}`);
    }
  }

  #delete(kind, place) {
    const [phrase] = this.interests[kind].splice(place, 1);
    this.#done(`“${phrase}” was deleted.`);
    const left = this.interests[kind][Math.min(place, this.interests[kind].length - 1)];
    if (left) this.#focus(`Delete ${left}`);
    else this.phrase.focus();
  }

  #focus(label) {
    [...this.lists.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === label)?.focus();
  }
}

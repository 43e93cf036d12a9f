// The first view: a wish, items, interests and the dial, and the recommendations with their reasons.

import { bullets, element, fill, notice } from "./elements.js";
import { ItemPicker, titled } from "./item_picker.js";
import { epsilonPer } from "./figures.js";
import { InterestEditor } from "./interests.js";
import { ask } from "./service.js";

const KEPT = "hushrec.taste"; // of sessionStorage: gone with the tab
const PAUSE = 250; // milliseconds after the dial moved before the service is asked again
const EXAMPLES = ["something recent and popular", "before 1990, not war", "light and funny"];
const AMOUNTS = ["10", "20", "50"];

export function tryView(section) {
  let built = null;
  return { title: "Try it", show: () => (built ??= new TryView(section)), retry: () => built?.retry() };
}

class TryView {
  constructor(section) {
    this.taste = readTaste();
    this.picker = new ItemPicker(this.taste.items, () => this.#changed());
    this.interests = new InterestEditor(this.taste.interests, () => this.#changed());
    this.answer = element("div", { class: "answer", "aria-live": "polite" }, welcome());
    fill(
      section,
      element("h1", { id: "try-title", tabindex: "-1" }, "What would you like?"),
      element("div", { class: "two" }, this.#form(), this.answer),
    );
  }

  retry() {
    if (this.failed) this.#ask();
  }

  #form() {
    this.wish = element("textarea", {
      id: "wish",
      rows: 2,
      maxlength: 500,
      placeholder: EXAMPLES[0],
      onkeydown: (event) => this.#sendOnEnter(event),
    });
    const examples = EXAMPLES.map((one) =>
      element("button", { type: "button", class: "quiet", onclick: () => this.#example(one) }, one),
    );
    this.profile = element(
      "textarea",
      { id: "profile", rows: 2, maxlength: 1000, oninput: () => this.#keep() },
      this.taste.profile,
    );
    return element(
      "form",
      { class: "panel", onsubmit: (event) => this.#send(event) },
      element(
        "div",
        { class: "field" },
        element("label", { for: "wish" }, "A wish, in plain words"),
        this.wish,
        element("div", { class: "examples", role: "group", "aria-label": "Examples of wishes" }, examples),
      ),
      this.picker.root,
      this.#dial(),
      element(
        "div",
        { class: "line" },
        element("button", { type: "submit", class: "main" }, "Recommend"),
        this.#amount(),
      ),
      this.interests.root,
      element(
        "details",
        {},
        element("summary", {}, "About your taste, in a sentence or two"),
        element("div", { class: "field" }, element("label", { for: "profile" }, "Your taste"), this.profile),
      ),
      element("button", { type: "button", class: "quiet", onclick: () => this.#forget() }, "Forget all I entered"),
    );
  }

  #dial() {
    this.dial = element("input", {
      id: "discovery",
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      value: this.taste.discovery,
      "aria-describedby": "dial-ends",
      oninput: () => this.#turned(),
    });
    this.shown = element("output", { for: "discovery" });
    this.#tellDial();
    return element(
      "div",
      { class: "field" },
      element("div", { class: "spread" }, element("label", { for: "discovery" }, "Discovery"), this.shown),
      this.dial,
      element(
        "div",
        { class: "spread small soft", id: "dial-ends" },
        element("span", {}, "familiar"),
        element("span", {}, "surprising"),
      ),
    );
  }

  #amount() {
    const options = AMOUNTS.map((one) => element("option", { value: one }, `${one} items`));
    this.amount = element("select", { "aria-label": "How many items" }, options);
    return this.amount;
  }

  #tellDial() {
    const value = Number(this.dial.value);
    const word = value < 0.25 ? "familiar" : value > 0.75 ? "surprising" : "in between";
    this.shown.textContent = value.toFixed(2);
    this.dial.setAttribute("aria-valuetext", `${value.toFixed(2)}, ${word}`);
  }

  #turned() {
    this.taste.discovery = Number(this.dial.value);
    this.#tellDial();
    this.#changed();
  }

  #example(words) {
    this.wish.value = words;
    this.#ask();
  }

  #sendOnEnter(event) {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    this.#ask();
  }

  #send(event) {
    event.preventDefault();
    this.#ask();
  }

  /** What was answered before is answered anew; nothing is asked before the person asked once. */
  #changed() {
    this.#keep();
    if (!this.asked) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(false), PAUSE);
  }

  #keep() {
    if (this.profile) this.taste.profile = this.profile.value;
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(this.taste));
    } catch {
      // no storage: it lives as long as the page
    }
  }

  #forget() {
    try {
      sessionStorage.removeItem(KEPT);
    } catch {
      // nothing was kept
    }
    location.reload();
  }

  /** Ask anew; a person who pressed the button is taken to the answer where it is below the screen. */
  async #ask(pressed = true) {
    clearTimeout(this.timer);
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    this.answer.setAttribute("aria-busy", "true");
    const body = {
      history: this.taste.items.map((item) => item.item_id),
      profile: this.profile.value.trim(),
      query: this.wish.value.trim(),
      interests: this.taste.interests,
      n: Number(this.amount.value),
      discovery: this.taste.discovery,
    };
    try {
      const answer = await ask("/v1/recommend", { body, signal: asked.signal });
      this.failed = false;
      fill(this.answer, this.#results(answer));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed = true;
      fill(
        this.answer,
        notice("bad", error.message, "Try again", () => this.#ask()),
      );
    }
    this.answer.removeAttribute("aria-busy");
    if (pressed && this.answer.getBoundingClientRect().top > 0.7 * innerHeight) this.answer.scrollIntoView();
  }

  #results(answer) {
    const items = answer.items ?? [];
    const told = [
      answer.understood && element("p", { class: "understood" }, element("b", {}, "Understood: "), answer.understood),
      answer.note && notice("info", answer.note),
    ];
    if (!items.length)
      return [told, notice("info", "Nothing fits. Ask for less in the wish, or take an interest away.")];
    const heading = element("h2", {}, items.length === 1 ? "One item" : `${items.length} items`);
    return [
      heading,
      told,
      element(
        "ol",
        { class: "results" },
        items.map((item) => this.#card(item)),
      ),
      source(answer.bundle),
    ];
  }

  #card(item) {
    const picked = this.taste.items.some((one) => one.item_id === item.item_id);
    const like = {
      type: "button",
      class: "quiet",
      "aria-label": `I liked ${titled(item)}: use it`,
      disabled: picked,
      onclick: () => this.picker.add(item),
    };
    return element(
      "li",
      {},
      element("span", { class: "rank", "aria-hidden": "true" }, item.rank),
      element(
        "div",
        {},
        element("h3", {}, titled(item)),
        element("p", { class: "small soft" }, (item.genres ?? []).join(" · ")),
        element(
          "ul",
          { class: "reasons", "aria-label": "Why" },
          (item.reasons ?? []).map((reason) => element("li", {}, reason)),
        ),
      ),
      element("button", like, "I liked it"),
    );
  }
}

function welcome() {
  return element(
    "div",
    { class: "panel welcome" },
    element("h2", {}, "Nothing asked yet"),
    element("p", {}, "Any of these is enough, and they work together:"),
    bullets([`a wish, such as “${EXAMPLES[0]}”`, "a few items you liked", "interests that you write yourself"]),
    element("p", {}, "With nothing at all, Recommend shows what is popular."),
  );
}

function source(bundle) {
  if (!bundle) return null;
  const { experiment = "?", sha256 = "", privacy = {} } = bundle;
  const mechanism = privacy.mechanism ?? "none";
  const claim = mechanism === "none" ? "no privacy claim" : epsilonPer(privacy.epsilon, privacy.unit);
  return element(
    "p",
    { class: "small soft" },
    `From the model ${experiment} (${sha256.slice(0, 12)}), trained with ${claim}. `,
    element("a", { href: "#served" }, "What that means"),
  );
}

function readTaste() {
  const empty = { items: [], interests: { likes: [], dislikes: [] }, discovery: 0, profile: "" };
  try {
    return { ...empty, ...JSON.parse(sessionStorage.getItem(KEPT) ?? "{}") };
  } catch {
    return empty;
  }
}

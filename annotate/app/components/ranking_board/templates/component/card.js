// One answer on the page: its letter, text, and where the batch asks for them, a rating and flags.

import { t } from "./words.js";
import { h, nodes } from "./dom.js";

export const letter = (i) => String.fromCharCode(65 + i);

let scales = 0;

/** The rating that a digit gives; 0 stands for 10. */
export const ratingOf = (event) => Number(event.code.slice(-1)) || 10;

export class Card {
  /** answer: the server's rendering; asks: what the batch wants; given: {rating, flags} of a draft or earlier answer. */
  constructor(task, index, given, { changed, focused, controls = [] }) {
    this.task = task;
    this.index = index;
    this.rating = given.rating ?? null;
    this.flags = new Set(given.flags ?? []);
    this.changed = changed;
    this.letter = h("span", { class: "letter", "aria-hidden": "true" }, letter(index));
    this.state = h("span", { class: "state" });
    this.element = h(
      "article",
      { class: "card", tabindex: "0", "data-answer": index, "aria-label": t("rank.answer", { letter: letter(index) }), onfocusin: () => focused(index), onpointerdown: () => focused(index) },
      h("header", {}, this.letter, this.state, ...controls),
      textBody(task.answers[index], () => task.whole.answer(index)),
      task.asks.ratings || task.kind === "rate" ? this._ratings() : null,
      task.asks.flags.length ? this._flags() : null,
    );
  }

  rate(value) {
    this.show(value);
    this.changed();
  }

  /** Have a rating stand there, null for none. */
  show(value) {
    this.rating = value;
    for (const box of this.element.querySelectorAll(".rating input")) box.checked = Number(box.value) === value;
  }

  openFlags() {
    const details = this.element.querySelector("details.flags");
    if (!details) return;
    details.open = !details.open;
    (details.open ? details.querySelector("input") : this.element).focus();
  }

  _ratings() {
    const name = `rating-${(scales += 1)}`; // several boards may stand on one page
    const { scale } = this.task.asks;
    const boxes = Array.from({ length: scale }, (_, i) => i + 1).map((value) =>
      h("label", {}, h("input", { type: "radio", name, value: String(value), checked: value === this.rating, onchange: () => this.rate(value) }), h("span", {}, String(value))),
    );
    return h("fieldset", { class: "rating" }, h("legend", {}, t("rank.rating")), h("span", { class: "scale" }, ...boxes), h("span", { class: "quiet ends", "aria-hidden": "true" }, t("rank.rating_ends", { scale })));
  }

  _flags() {
    const count = h("span", { class: "count" });
    const recount = () => { count.textContent = this.flags.size ? ` (${this.flags.size})` : ""; };
    const toggle = (flag, on) => { if (on) this.flags.add(flag); else this.flags.delete(flag); recount(); this.changed(); };
    const boxes = this.task.asks.flags.map((flag) =>
      h("label", {}, h("input", { type: "checkbox", value: flag, checked: this.flags.has(flag), onchange: (event) => toggle(flag, event.target.checked) }), t(`flags.${flag}`)),
    );
    recount();
    return h("details", { class: "flags", onkeydown: (event) => this._flagKeys(event) }, h("summary", {}, t("rank.flags"), count), ...boxes);
  }

  _flagKeys(event) {
    const boxes = [...this.element.querySelectorAll(".flags input")];
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) boxes[(boxes.indexOf(document.activeElement) + by + boxes.length) % boxes.length].focus();
    else if (event.key === "Escape") this.openFlags();
    else return;
    event.preventDefault();
  }
}

/** A text as Markdown with its raw form beside it (V changes which is seen), folded where it is long.
 *  whole(): the nodes of all of a folded text. */
export function textBody(text, whole = null) {
  const body = h("div", { class: "text" }, h("div", { class: "formatted", dir: "auto" }, ...nodes(text.nodes)), h("div", { class: "raw", dir: "auto" }, ...nodes(text.raw)));
  if (text.chars === 0) body.replaceChildren(h("p", { class: "quiet" }, t("rank.empty_answer")));
  if (text.folded && whole) body.append(unfold(body, text.chars, whole));
  return body;
}

function unfold(body, chars, whole) {
  const button = h("button", { type: "button", class: "plain", onclick: async () => {
    body.replaceChildren(h("div", { class: "whole", dir: "auto" }, ...nodes(await whole())));
  } }, t("rank.show_all", { chars: chars.toLocaleString() }));
  return h("p", { class: "fold" }, button);
}

/** The turns that lead to the answers. */
export function conversation({ prompt, whole }) {
  return h("section", { class: "prompt", "aria-label": t("rank.prompt") }, ...prompt.map((turn, i) =>
    h("div", { class: `turn ${turn.role}` }, h("span", { class: "role" }, t(`roles.${turn.role}`)), textBody(turn, () => whole.turn(i))),
  ));
}

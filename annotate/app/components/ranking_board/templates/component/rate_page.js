// Answers rated each by itself, from bad to excellent.

import { t } from "./words.js";
import { Card, conversation, letter, ratingOf } from "./card.js";
import { focus, h } from "./dom.js";
import { cardBindings } from "./rank_page.js";

/** given: {ratings, flags} of a draft or an earlier answer, in shown order. changed(): the draft is to be saved. */
export class RatePage {
  constructor(task, given, changed) {
    this.task = task;
    this.size = task.answers.length;
    this.changed = changed;
    this.current = 0;
    this.cards = task.answers.map((_, i) => new Card(task, i, { rating: given.ratings?.[i], flags: given.flags?.[i] }, {
      changed: () => this._update(), focused: (index) => this._mark(index),
    }));
    this.known = this.ratings;
    this.past = [];
    this.spoken = h("p", { class: "hidden-text", role: "status" });
    this.element = h("div", { class: "rank rate" },
      conversation(task),
      h("p", { class: "hint quiet" }, t("rate.hint")),
      h("div", { class: this.size === 2 ? "cards two" : "cards", "data-size": this.size }, ...this.cards.map((card) => card.element)),
      this.spoken,
    );
    this._draw();
  }

  get ratings() {
    return this.cards.map((card) => card.rating);
  }

  get unrated() {
    return this.cards.flatMap((card, i) => (card.rating === null ? [i] : []));
  }

  start() {
    this.select(this.unrated[0] ?? 0);
  }

  state() {
    return { ratings: this.ratings, flags: this.cards.map((card) => [...card.flags]) };
  }

  answer() {
    return this.state();
  }

  doubt() {
    return null;
  }

  /** What still has to be said before it can be submitted, or null. */
  missing() {
    const letters = this.unrated.map(letter).join(", ");
    return letters ? t("rate.missing", { letters }) : null;
  }

  undo() {
    if (!this.past.length) return false;
    this.known = this.past.pop();
    this.cards.forEach((card, i) => card.show(this.known[i]));
    this._update();
    return true;
  }

  select(i) {
    focus(this.cards[i].element);
    this._mark(i);
  }

  /** The focused answer gets a rating, and the next one without the focus. */
  put(rating) {
    if (rating > this.task.asks.scale) return false;
    const answer = this.current;
    this.cards[answer].rate(rating);
    const rest = this.unrated;
    if (rest.length) this.select(rest.find((i) => i > answer) ?? rest[0]);
  }

  bindings() {
    const { scale } = this.task.asks;
    const step = (by) => this.select((this.current + by + this.size) % this.size);
    return [
      { code: /^(Digit|Numpad)[0-9]$/, shown: ["1", "…", scale === 10 ? "0" : String(scale)], text: t("help.rating"), run: (event) => this.put(ratingOf(event)) },
      { keys: ["ArrowRight"], shown: ["←", "→"], text: t("help.focus"), run: () => step(1) },
      { keys: ["ArrowLeft"], run: () => step(-1) },
      { keys: ["ArrowUp"], shown: ["↑", "↓"], text: t("help.raise"), run: () => this._raise(1) },
      { keys: ["ArrowDown"], run: () => this._raise(-1) },
      ...cardBindings(this),
    ];
  }

  /** One point up or down, from the nearer end where there is no rating yet. */
  _raise(by) {
    const card = this.cards[this.current];
    const { scale } = this.task.asks;
    card.rate(card.rating === null ? (by > 0 ? 1 : scale) : Math.min(Math.max(card.rating + by, 1), scale));
  }

  _update() {
    const ratings = this.ratings;
    if (ratings.some((rating, i) => rating !== this.known[i])) {
      this.past.push(this.known);
      this.known = ratings;
    }
    this._draw();
    this.spoken.textContent = ratings.flatMap((rating, i) => (rating === null ? [] : [`${letter(i)} ${rating}`])).join(", ");
    this.changed();
  }

  _mark(i) {
    this.current = i;
    this._draw();
  }

  _draw() {
    this.cards.forEach((card, i) => {
      const words = card.rating === null ? t("rate.unrated") : t("rate.rated", { rating: card.rating });
      card.element.classList.toggle("current", i === this.current);
      card.element.classList.toggle("ranked", card.rating !== null);
      card.element.setAttribute("aria-label", `${t("rank.answer", { letter: letter(i) })}, ${words}`);
      card.state.textContent = card.rating === null ? "" : words;
    });
  }
}

// Two answers: which is better, and where the batch asks for it, by how much.

import { t } from "./words.js";
import { Card, conversation, letter } from "./card.js";
import { focus, h } from "./dom.js";
import { cardBindings } from "./rank_page.js";

const MOST = 3;

/** The choice is a number: −3 … −1 A is better (much … slightly), 0 a tie, 1 … 3 B is better; "both_bad"; or null. */
export class PairPage {
  constructor(task, given, changed) {
    this.task = task;
    this.changed = changed;
    this.choice = given.choice ?? null;
    this.past = [];
    this.current = 0;
    this.cards = [0, 1].map((i) => new Card(task, i, { rating: given.ratings?.[i], flags: given.flags?.[i] }, {
      changed, focused: (index) => this._mark(index),
    }));
    this.scale = h("div", { class: "verdict", role: "group", "aria-label": t("pair.question") }, ...this._buttons());
    this.spoken = h("p", { class: "hidden-text", role: "status" });
    this.element = h("div", { class: "rank pair" },
      conversation(task),
      h("div", { class: "cards two" }, ...this.cards.map((card) => card.element)),
      h("div", { class: "pinned bottom" }, this.scale, h("p", { class: "hint quiet" }, t(task.asks.strength ? "pair.hint_strength" : "pair.hint"))),
      this.spoken,
    );
    this._draw();
  }

  start() {
    this.cards[0].element.focus({ preventScroll: true });
  }

  state() {
    return { choice: this.choice, ratings: this.cards.map((card) => card.rating), flags: this.cards.map((card) => [...card.flags]) };
  }

  answer() {
    const { ratings, flags } = this.state();
    const strength = this.task.asks.strength && this.choice && this.choice !== "both_bad" ? Math.abs(this.choice) : null;
    if (this.task.kind === "compare") {
      const verdict = this.choice === "both_bad" ? "both_bad" : this.choice === 0 ? "tie" : this.choice < 0 ? "a" : "b";
      return { verdict, strength, ratings, flags };
    }
    return { ranks: this.choice === 0 ? [0, 0] : this.choice < 0 ? [0, 1] : [1, 0], strength, ratings, flags };
  }

  /** What is said of answers of which none is acceptable, and between which nobody chose. */
  orderless() {
    const { ratings, flags } = this.state();
    return this.task.kind === "compare" ? { verdict: "both_bad", ratings, flags } : { ratings, flags };
  }

  doubt() {
    return null;
  }

  /** What still has to be said before it can be submitted, or null. */
  missing() {
    return this.choice === null ? t("pair.missing") : null;
  }

  undo() {
    if (!this.past.length) return false;
    this.choice = this.past.pop();
    this._update();
    return true;
  }

  choose(choice) {
    if (choice === this.choice) return;
    this.past.push(this.choice);
    this.choice = choice;
    this._update();
  }

  /** One key press towards an answer: from the other side to slightly, then clearly, then much better. */
  lean(side) {
    if (!this.task.asks.strength) this.choose(side);
    else if (typeof this.choice === "number" && Math.sign(this.choice) === side) this.choose(side * Math.min(Math.abs(this.choice) + 1, MOST));
    else this.choose(side);
  }

  bindings() {
    const keys = [
      { keys: ["ArrowLeft"], shown: ["←", "1"], text: t("help.first_better"), run: () => this.lean(-1) },
      { code: /^(Digit|Numpad)1$/, run: () => this.lean(-1) },
      { keys: ["ArrowRight"], shown: ["→", "2"], text: t("help.second_better"), run: () => this.lean(1) },
      { code: /^(Digit|Numpad)2$/, run: () => this.lean(1) },
      { keys: ["="], text: t("help.equal"), run: () => this.choose(0) },
      { keys: ["ArrowUp"], shown: ["↑", "↓"], text: t("help.focus"), run: () => focus(this.cards[0].element) },
      { keys: ["ArrowDown"], run: () => focus(this.cards[1].element) },
    ];
    if (this.task.kind === "compare") keys.push({ keys: ["b", "0"], shown: ["B", "0"], text: t("help.both_bad"), run: () => this.choose("both_bad") });
    return [...keys, ...cardBindings(this)];
  }

  _buttons() {
    const steps = this.task.asks.strength ? [-3, -2, -1, 0, 1, 2, 3] : [-1, 0, 1];
    const words = (step) => {
      if (step === 0) return t("pair.tie");
      const name = letter(step < 0 ? 0 : 1);
      return this.task.asks.strength ? t(`pair.strength${Math.abs(step)}`, { letter: name }) : t("pair.better", { letter: name });
    };
    const choices = this.task.kind === "compare" ? [...steps, "both_bad"] : steps;
    return choices.map((choice) => h("button", { type: "button", "data-choice": choice, onclick: () => this.choose(choice) }, choice === "both_bad" ? t("pair.both_bad") : words(choice)));
  }

  _mark(i) {
    this.current = i;
    this.cards.forEach((card, other) => card.element.classList.toggle("current", other === i));
  }

  _update() {
    this._draw();
    this.spoken.textContent = this.scale.querySelector("[aria-pressed=true]")?.textContent ?? "";
    this.changed();
  }

  _draw() {
    for (const button of this.scale.children) button.setAttribute("aria-pressed", String(button.dataset.choice === String(this.choice)));
    const winner = typeof this.choice === "number" && this.choice !== 0 ? (this.choice < 0 ? 0 : 1) : null;
    this.cards.forEach((card, i) => {
      card.element.classList.toggle("ranked", i === winner);
      card.state.textContent = i === winner ? t("pair.better", { letter: letter(i) }) : "";
    });
  }
}

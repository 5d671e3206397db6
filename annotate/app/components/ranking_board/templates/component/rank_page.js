// Three or more answers: order them best to worst, with ties.

import { t } from "./words.js";
import { Card, conversation, letter, ratingOf } from "./card.js";
import { focus, h } from "./dom.js";
import { Ranking } from "./ranking.js";
import { Strip } from "./strip.js";

/** given: {ranks, ratings, flags} of a draft or an earlier answer, in shown order. changed(): the draft is to be saved. */
export class RankPage {
  constructor(task, given, changed) {
    this.task = task;
    this.size = task.answers.length;
    this.changed = changed;
    this.ranking = new Ranking(this.size, given.ranks?.length ? given.ranks : null);
    this.current = 0;
    this.strip = new Strip(this.ranking, { changed: () => this._update(), select: (i) => this.select(i) });
    this.cards = task.answers.map((_, i) => new Card(task, i, { rating: given.ratings?.[i], flags: given.flags?.[i] }, {
      changed, focused: (index) => this._mark(index), controls: [this._rankButtons(i)],
    }));
    this.spoken = h("p", { class: "hidden-text", role: "status" });
    this.element = h("div", { class: "rank" },
      conversation(task),
      h("div", { class: "pinned" }, this.strip.element, h("p", { class: "hint quiet" }, t("rank.hint"))),
      h("div", { class: "cards", "data-size": this.size }, ...this.cards.map((card) => card.element)),
      this.spoken,
    );
    this._draw();
  }

  start() {
    this.select(this.ranking.unranked[0] ?? 0);
  }

  /** What the batch's form has to say: {ranks, ratings, flags}; ranks 1 best or null, as a draft. */
  state() {
    return { ranks: this.ranking.ranks, ratings: this.cards.map((card) => card.rating), flags: this.cards.map((card) => [...card.flags]) };
  }

  answer() {
    return { ...this.state(), ranks: this.ranking.final() };
  }

  /** What is said of answers of which none is acceptable, and which nobody put in order. */
  orderless() {
    const { ratings, flags } = this.state();
    return { ratings, flags };
  }

  /** A question to ask before submitting, or null. */
  doubt() {
    if (this.ranking.untouched) return t("rank.ask_untouched");
    const rest = this.ranking.unranked;
    return rest.length > 1 || (rest.length && this.ranking.ranks.some((rank) => rank === this.size))
      ? t("rank.ask_unranked", { letters: rest.map(letter).join(", ") })
      : null;
  }

  undo() {
    const undone = this.ranking.undo();
    if (undone) this._update();
    return undone;
  }

  select(i) {
    focus(this.cards[i].element);
    this._mark(i);
  }

  /** What is wrong with the answer as it stands, or null; a doubt is asked about once. */
  missing() {
    return null;
  }

  /** The focused answer gets a rank, and the next unranked one the focus. */
  put(rank) {
    if (rank > this.size) return false;
    const answer = this.current;
    this.ranking.set(answer, rank);
    this._update();
    this._advance(answer);
  }

  bindings() {
    const step = (by) => this.select((this.current + by + this.size) % this.size);
    return [
      { code: /^(Digit|Numpad)[1-9]$/, shown: ["1", "…", String(this.size)], text: t("help.digit"), run: (event) => this.put(Number(event.code.slice(-1))) },
      { keys: ["ArrowRight"], shown: ["←", "→"], text: t("help.focus"), run: () => step(1) },
      { keys: ["ArrowLeft"], run: () => step(-1) },
      { keys: ["ArrowUp"], shown: ["↑", "↓"], text: t("help.move"), run: () => this._change(() => this.ranking.move(this.current, -1)) },
      { keys: ["ArrowDown"], run: () => this._change(() => this.ranking.move(this.current, 1)) },
      { keys: ["="], text: t("help.tie"), run: () => this._tie() },
      ...cardBindings(this),
    ];
  }

  _tie() {
    const answer = this.current;
    const before = this.ranking.ranks[answer];
    this._change(() => this.ranking.tie(answer));
    if (before === null) this._advance(answer);
  }

  _advance(from) {
    const rest = this.ranking.unranked;
    if (rest.length) this.select(rest.find((i) => i > from) ?? rest[0]);
  }

  _change(act) {
    act();
    this._update();
  }

  _update() {
    this._draw();
    this.spoken.textContent = this._summary();
    this.changed();
  }

  _rankButtons(answer) {
    const buttons = Array.from({ length: this.size }, (_, i) =>
      h("button", { type: "button", tabindex: "-1", "data-rank": i + 1, "aria-label": t("rank.give", { letter: letter(answer), rank: i + 1 }), onclick: () => {
        this._mark(answer);
        this._change(() => this.ranking.set(answer, i + 1));
      } }, String(i + 1)),
    );
    return h("span", { class: "ranks", role: "group", "aria-label": t("rank.rank") }, ...buttons);
  }

  _mark(i) {
    this.current = i;
    this._draw();
  }

  _draw() {
    const groups = this.ranking.groups();
    this.cards.forEach((card, i) => {
      const place = groups.findIndex((group) => group.includes(i));
      const words = place < 0 ? t("rank.unranked") : t(groups[place].length > 1 ? "rank.tied" : "rank.place", { rank: this.ranking.ranks[i] });
      card.element.classList.toggle("current", i === this.current);
      card.element.classList.toggle("ranked", place >= 0);
      card.element.setAttribute("aria-label", `${t("rank.answer", { letter: letter(i) })}, ${words}`);
      card.state.textContent = place < 0 ? "" : words;
      for (const button of card.element.querySelectorAll(".ranks button"))
        button.setAttribute("aria-pressed", String(Number(button.dataset.rank) === this.ranking.ranks[i]));
    });
    this.strip.draw(this.current);
  }

  _summary() {
    return this.ranking.groups().map((group) => group.map(letter).join(" = ")).join(", ");
  }
}

/** Keys for what cards hold; shift and a digit rate the focused answer. */
export function cardBindings(page) {
  const { asks, kind } = page.task;
  const rate = (rating) => {
    const card = page.cards[page.current];
    return rating <= asks.scale && card.rate(card.rating === rating ? null : rating);
  };
  return [
    ...(asks.ratings && kind !== "rate" ? [{ code: /^(Digit|Numpad)[0-9]$/, shift: true, shown: ["⇧1", "…", `⇧${asks.scale % 10}`], text: t("help.rate"), run: (event) => rate(ratingOf(event)) }] : []),
    ...(asks.flags.length ? [{ keys: ["f"], shown: ["F"], text: t("help.flags"), run: () => page.cards[page.current].openFlags() }] : []),
  ];
}

// A task and what a person says to it: the answers or the field to write in, comment, none acceptable, the foot.
// Knows no server: what is submitted goes to whoever made the board.

import { h } from "./dom.js";
import { PairPage } from "./pair_page.js";
import { RankPage } from "./rank_page.js";
import { RatePage } from "./rate_page.js";
import { t } from "./words.js";
import { WritePage } from "./write_page.js";

/** What a kind of task is shown by. */
export const pageOf = (task) => {
  const byKind = { demonstrate: WritePage, rate: RatePage }[task.kind];
  return byKind ?? (task.answers.length === 2 ? PairPage : RankPage);
};

export class Board {
  /** task: kind, prompt, answers, asks, and whole(): what was folded. given: a draft or an earlier answer.
   *  to: {changed(), submit(said), say(text)}. foot: {buttons, words} beside and on the submit button. */
  constructor(task, given, to, { buttons = [], words = t("work.submit") } = {}) {
    this.task = task;
    this.to = to;
    this.asked = false;
    this.page = new (pageOf(task))(task, given, () => this._changed());
    this.comment = h("textarea", { rows: "2", dir: "auto", placeholder: t("work.comment"), "aria-label": t("work.comment"), value: given.comment ?? "", oninput: () => this._changed() });
    this.none = h("input", { type: "checkbox", checked: Boolean(given.none_acceptable), onchange: () => this._changed() });
    this.saved = h("span", { class: "quiet saved", role: "status" });
    this.foot = this._foot(buttons, words);
  }

  /** All that is typed so far. */
  state() {
    return { ...this.page.state(), comment: this.comment.value, none_acceptable: this.none.checked };
  }

  /** Submit what is on the board; says what is missing, and asks once where it is doubtful. */
  submit() {
    const none = this._offersNone && this.none.checked;
    const missing = (none ? null : this.page.missing()) ?? this._missingComment();
    if (missing) return this.to.say(missing);
    const doubt = none || this.asked ? null : this.page.doubt();
    if (doubt) {
      this.asked = true;
      return this.to.say(`${doubt} ${t("work.again")}`);
    }
    const said = none && (this.page.missing() || this.page.ranking?.untouched) ? this.page.orderless() : this.page.answer();
    return this.to.submit({ kind: this.task.kind, ...said, none_acceptable: none, comment: this.comment.value });
  }

  /** Take the last change back; false where there is none. */
  undo() {
    return this.page.undo();
  }

  bindings() {
    const { asks } = this.task;
    return [
      ...this.page.bindings(),
      { keys: ["Enter"], shown: ["⏎"], text: t("help.submit"), run: () => this.submit() },
      { keys: ["Enter"], shown: ["Ctrl", "⏎"], text: t("help.submit_anywhere"), ctrl: true, everywhere: true, run: () => this.submit() },
      ...(this._offersNone ? [{ keys: ["n"], shown: ["N"], text: t("work.none_acceptable"), run: () => { this.none.checked = !this.none.checked; this._changed(); } }] : []),
      ...(asks.comment ? [{ keys: ["c"], shown: ["C"], text: t("help.comment"), run: () => this._openComment() }] : []),
      { keys: ["Escape"], everywhere: true, run: () => this.page.start() },
    ];
  }

  /** Where there are answers to be put in order. */
  get _offersNone() {
    return this.task.asks.none_acceptable && Boolean(this.page.orderless);
  }

  _changed() {
    this.asked = false;
    this.to.changed();
  }

  _openComment() {
    this.comment.closest("details").open = true;
    this.comment.focus();
  }

  /** A comment that a low rating owes, where the batch asks for it. */
  _missingComment() {
    const { asks } = this.task;
    const low = (this.page.state().ratings ?? []).some((rating) => rating !== null && rating < asks.comment_below);
    if (!low || this.comment.value.trim()) return null;
    this._openComment();
    return t("work.comment_missing", { rating: asks.comment_below });
  }

  _foot(buttons, words) {
    const { asks, kind } = this.task;
    const more = [];
    if (this._offersNone) more.push(h("label", { class: "none" }, this.none, " ", t("work.none_acceptable"), " ", h("kbd", {}, "N")));
    if (asks.comment) more.push(h("details", { class: "comment", open: this.comment.value !== "" }, h("summary", {}, t("work.comment"), " ", h("kbd", {}, "C")), this.comment));
    return h("footer", { class: "foot" },
      h("div", { class: "more" }, ...more),
      h("div", { class: "actions" }, this.saved, ...buttons,
        h("button", { type: "button", class: "primary submit", onclick: () => this.submit() }, words, " ", h("kbd", {}, kind === "demonstrate" ? "Ctrl ⏎" : "⏎"))),
    );
  }
}

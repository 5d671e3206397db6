// Write the ideal answer, or edit a model's answer into one.

import { t } from "./words.js";
import { conversation, letter, textBody } from "./card.js";
import { h } from "./dom.js";

export class WritePage {
  constructor(task, given, changed) {
    this.task = task;
    this.changed = changed;
    this.count = h("span", { class: "quiet", "aria-live": "off" });
    this.field = h("textarea", { class: "demonstration", rows: "10", dir: "auto", "aria-label": t("write.label"), value: given.demonstration ?? "", oninput: () => { this._measure(); changed(); } });
    this.element = h("div", { class: "write" },
      conversation(task),
      ...task.answers.map((answer, i) => this._model(answer, i)),
      h("label", { class: "big" }, t("write.label"), this.field),
      h("p", { class: "hint quiet" }, t("write.hint"), " ", this.count),
    );
    this._measure();
  }

  start() {
    this.field.focus();
    this._grow();
  }

  state() {
    return { demonstration: this.field.value };
  }

  answer() {
    return this.state();
  }

  doubt() {
    return this.started && this.field.value === this.started ? t("write.ask_unchanged") : null;
  }

  missing() {
    return this.field.value.trim() ? null : t("write.missing");
  }

  undo() {
    return false;
  }

  bindings() {
    return [];
  }

  _model(answer, i) {
    const start = async () => {
      if (this.field.value.trim() && this.field.value !== this.started && !window.confirm(t("write.ask_replace"))) return;
      this.started = await this.task.whole.source(i);
      this.field.value = this.started;
      this._measure();
      this.field.focus();
      this.changed();
    };
    return h("article", { class: "card", "aria-label": t("rank.answer", { letter: letter(i) }) },
      h("header", {}, h("span", { class: "letter" }, letter(i)), h("button", { type: "button", class: "plain", onclick: start }, t("write.start_from"))),
      textBody(answer, () => this.task.whole.answer(i)),
    );
  }

  _measure() {
    const text = this.field.value.trim();
    const words = text ? text.split(/\s+/).length : 0;
    this.count.textContent = t("write.count", { words, chars: text.length });
    this._grow();
  }

  _grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.max(this.field.scrollHeight + 4, 180)}px`;
  }
}

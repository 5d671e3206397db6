// The board by itself: shows the value that Python gave, and gives back what a person said to it.

import { Board } from "./board.js";
import { h } from "./dom.js";
import { Keys } from "./keys.js";
import { speak, t } from "./words.js";

/** element: where; state: Gradio's properties of the component; trigger(event, data); watch(name, run). */
export function mount({ element, state, trigger, watch }) {
  speak(state.words);
  const keys = new Keys(element);
  const show = () => (state.value ? new Alone(element, keys, state, trigger).show() : element.replaceChildren());
  watch("value", show);
  show();
}

class Alone {
  constructor(element, keys, state, trigger) {
    Object.assign(this, { element, keys, state, trigger });
    this.note = h("span", { class: "quiet", role: "status" });
    const { task, answer } = state.value;
    const undo = h("button", { type: "button", onclick: () => this.board.undo() }, t("work.undo"), " ", h("kbd", {}, "U"));
    this.board = new Board({ ...task, whole: whole(task), asks: state.asks }, answer ?? {}, {
      changed: () => this._said("select", null),
      submit: (said) => this._said("submit", said),
      say: (text) => { this.note.textContent = text; },
    }, { buttons: [this.note, undo] });
  }

  show() {
    this.element.replaceChildren(this.board.page.element, this.board.foot);
    this.keys.bind([
      ...this.board.bindings(),
      { keys: ["u"], shown: ["U"], text: t("help.undo"), run: () => this.board.undo() },
      { keys: ["v"], shown: ["V"], text: t("help.raw"), run: () => this.element.classList.toggle("show-raw") },
    ]);
  }

  /** What handlers in Python get: the value as it was given, and with it the answer so far or the one submitted. */
  _said(event, submitted) {
    this.note.textContent = "";
    this.state.value = { ...this.state.value, answer: this.board.state(), submitted };
    this.trigger(event, { index: this.board.page.current ?? 0, value: submitted ?? this.state.value.answer });
  }
}

/** Texts that are shown folded came along whole. */
const whole = (task) => ({
  answer: (i) => task.answers[i].whole,
  turn: (i) => task.prompt[i].whole,
  source: (i) => task.answers[i].text,
});

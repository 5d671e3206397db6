// How answers are drawn: which checkpoints, one or two side by side, sampling, system text.

import { t } from "../boot.js";
import { h } from "../board/dom.js";

const FIELDS = [
  ["temperature", { min: 0, max: 2, step: 0.05 }],
  ["top_p", { min: 0.01, max: 1, step: 0.01 }],
  ["top_k", { min: 0, max: 100000, step: 1 }],
  ["repetition_penalty", { min: 0.5, max: 2, step: 0.05 }],
  ["max_new_tokens", { min: 1, max: 1048576, step: 1 }],
  ["seed", { min: 0, max: 4294967295, step: 1 }],
];
const OPTIONAL = ["max_new_tokens", "seed"];

/** What a new conversation takes over from the newest one: all of it, unless the server was told other defaults since. */
export const takenOver = (newest, defaults) => (newest?.settings.defaults === JSON.stringify(defaults) ? newest.settings : {});

export class Settings {
  /** given: what a conversation kept; server: its models and defaults; changed(): called after every change by the person. */
  constructor(given, { models, defaults }, changed) {
    this.models = models;
    this.defaults = defaults;
    this.changed = changed;
    const known = (name) => (models.some((model) => model.name === name) ? name : null);
    const first = defaults.model ?? models[0]?.name ?? "";
    this.value = {
      model_a: known(given.model_a) ?? first,
      model_b: known(given.model_b) ?? models.find((model) => model.stage === "sft")?.name ?? first,
      side_by_side: Boolean(given.side_by_side),
      blind: given.blind ?? true,
      system: given.system ?? defaults.system,
      sampling: { ...defaults.sampling, ...given.sampling },
      defaults: JSON.stringify(defaults),
    };
    this.bar = h("div", { class: "pickers" });
    this.panel = h("details", { class: "setup" });
    this.draw();
  }

  draw() {
    const value = this.value;
    const set = (name) => (event) => {
      value[name] = event.target.type === "checkbox" ? event.target.checked : event.target.value;
      if (name === "side_by_side") this.draw();
      this.changed();
    };
    const picker = (name, label) => h("label", { class: "picker" }, h("span", { class: value.side_by_side ? "quiet" : "hidden-text" }, label),
      h("select", { id: name, onchange: set(name) }, ...this.models.map((model) => h("option", { value: model.name, selected: model.name === value[name] }, model.name))));
    const box = (name, title) => h("label", { class: "box", title }, h("input", { type: "checkbox", id: name, checked: value[name], onchange: set(name) }), " ", t(`chat.${name}`));
    const focused = document.activeElement?.id;
    this.bar.replaceChildren(
      picker("model_a", t(value.side_by_side ? "chat.model_a" : "chat.model")),
      ...(value.side_by_side ? [picker("model_b", t("chat.model_b"))] : []),
      box("side_by_side"),
      ...(value.side_by_side ? [box("blind", t("chat.blind_help"))] : []),
    );
    this.panel.replaceChildren(
      h("summary", {}, t("chat.settings"), h("span", { class: "quiet summary-values" }, " ", this.summary())),
      h("div", { class: "fields" }, ...FIELDS.map(([name, limits]) => this.field(name, limits))),
      h("label", { class: "system" }, h("span", {}, t("chat.system"), h("span", { class: "quiet" }, " ", t("chat.system_help"))), h("textarea", { id: "system", rows: 2, value: value.system, onchange: set("system") })),
      h("p", { class: "actions" }, h("button", { type: "button", class: "plain", onclick: () => this.reset() }, t("chat.defaults"))),
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  field(name, limits) {
    const help = ["temperature", "top_k", "max_new_tokens", "seed"].includes(name) ? t(`chat.${name}_help`) : null;
    const given = this.value.sampling[name];
    const input = h("input", { type: "number", id: name, ...limits, inputmode: "decimal", value: given ?? "", required: !OPTIONAL.includes(name), onchange: (event) => {
      if (!event.target.reportValidity()) return;
      this.value.sampling[name] = event.target.value === "" ? null : Number(event.target.value);
      this.panel.querySelector(".summary-values").textContent = ` ${this.summary()}`;
      this.changed();
    } });
    return h("label", {}, h("span", {}, t(`chat.${name}`)), input, help ? h("span", { class: "quiet" }, help) : null);
  }

  summary() {
    const { temperature, top_p, max_new_tokens, seed } = this.value.sampling;
    const parts = [`${t("chat.temperature")} ${temperature}`, `top p ${top_p}`];
    if (max_new_tokens !== null) parts.push(`≤ ${max_new_tokens}`);
    if (seed !== null) parts.push(t("chat.seed_shown", { seed }));
    return parts.join(" · ");
  }

  reset() {
    this.value.sampling = { ...this.defaults.sampling };
    this.value.system = this.defaults.system;
    this.draw();
    this.changed();
  }

  /** The sides of a question; `again`: how many answers it has, so that a fixed seed still gives a new one. */
  sides(again) {
    const { sampling, model_a, model_b, side_by_side } = this.value;
    const first = sampling.seed === null ? crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000 : sampling.seed + again;
    const models = side_by_side ? [model_a, model_b] : [model_a];
    return models.map((model, i) => ({ model, sampling: { ...sampling, seed: (first + i) % 4294967296 } }));
  }
}

// One turn of a conversation: its text, and what can be done with it.

import { t } from "../boot.js";
import { h, nodes } from "../board/dom.js";
import { icon } from "./icons.js";

const button = (name, label, run, extra = {}) => h("button", { type: "button", class: "act", "data-act": name, title: label, "aria-label": label, onclick: run, ...extra }, icon(name));

/** A question, with its versions and the button to edit it. */
export function question(turn, chat) {
  const edit = () => openEditor(element, turn.content, t("chat.edit_send"), (text) => chat.ask(text, turn.parent));
  const element = h("article", { class: "turn user", "data-turn": turn.id },
    h("span", { class: "role" }, t("chat.you")),
    h("div", { class: "text plain", dir: "auto" }, ...nodes(turn.text.nodes)),
    h("footer", { class: "acts" }, versions(turn, chat), chat.tree.children(turn.id).length ? null : button("again", t("chat.regenerate"), () => chat.ask(null, turn.id)), button("edit", t("chat.edit"), edit)));
  return element;
}

/** An answer that has been given. side: "A" or "B" within a pair. */
export function answer(turn, chat, side = null) {
  const mark = chat.marks.rate(turn.id);
  const title = h("header", {}, side ? h("span", { class: "letter", "aria-hidden": "true" }, side) : null, h("span", { class: "role" }, turn.checkpoint || t("chat.hidden_model")), badge(turn, chat));
  const rewritten = chat.marks.rewrite(turn.id);
  const thumb = (name, up) => button(name, t(`chat.${name}`), () => chat.thumb(turn, up), { "aria-pressed": String(mark?.verdict === name) });
  const element = h("article", { class: "turn assistant", "data-turn": turn.id, "aria-label": side ? t(`chat.answer_${side.toLowerCase()}`) : null },
    dropped(turn.sampling.dropped),
    title,
    body(turn),
    ending(turn.sampling.reason),
    rewritten ? h("div", { class: "rewritten" }, h("span", { class: "role" }, t("chat.rewritten")), h("div", { class: "text plain", dir: "auto" }, rewritten.text)) : null,
    h("footer", { class: "acts" },
      side ? null : versions(turn, chat),
      thumb("up", true), thumb("down", false),
      button("rewrite", t("chat.rewrite"), () => openEditor(element, rewritten?.text ?? turn.content, t("chat.save"), (text) => chat.rewrite(turn, text), t("chat.rewrite_help"))),
      side ? null : button("again", t("chat.regenerate"), () => chat.again(turn)),
      button("copy", t("chat.copy"), () => chat.copy(turn)),
      turn.checkpoint ? button("hood", t("chat.hood"), () => chat.openHood(turn, element), { "aria-expanded": "false" }) : null,
      turn.sampling.seed !== undefined ? h("span", { class: "quiet seed" }, t("chat.seed_shown", { seed: turn.sampling.seed })) : null));
  return element;
}

function body(turn) {
  if (!turn.content) return h("p", { class: "quiet" }, t("chat.empty_answer"));
  return h("div", { class: "text" }, h("div", { class: "formatted", dir: "auto" }, ...nodes(turn.text.nodes)));
}

const badge = (turn, chat) => (chat.marks.isChosen(turn.id) ? h("span", { class: "state" }, `✓ ${t("chat.chosen")}`) : null);

export const dropped = (count) => (count ? h("p", { class: "notice" }, t("chat.forgotten", { count })) : null);

const ending = (reason) => {
  const text = { cancelled: "chat.stopped", length: "chat.cut", time: "chat.out_of_time" }[reason];
  return text ? h("p", { class: "quiet ending" }, t(text)) : null;
};

/** ‹ 2 of 3 › where a turn has other versions. */
function versions(turn, chat) {
  const all = chat.tree.siblings(turn);
  if (all.length < 2) return null;
  const place = all.findIndex((other) => other.id === turn.id);
  const go = (by, label, sign) => h("button", { type: "button", class: "act", "aria-label": label, title: label, disabled: !all[place + by], onclick: () => chat.show(all[place + by]) }, sign);
  return h("span", { class: "versions" }, go(-1, t("chat.previous"), "‹"), h("span", { class: "quiet" }, t("chat.version", { place: place + 1, count: all.length })), go(1, t("chat.next"), "›"));
}

/** A text field in place of what the turn says; Escape or Cancel leaves it, Ctrl+Enter sends. */
function openEditor(element, text, label, done, help = null) {
  if (element.querySelector(".editor")) return;
  const field = h("textarea", { rows: Math.min(12, text.split("\n").length + 2), "aria-label": label, value: text });
  const close = () => { editor.remove(); element.classList.remove("editing"); element.querySelector("[data-act]")?.focus(); };
  const send = () => { if (field.value.trim()) { close(); done(field.value); } };
  const editor = h("div", { class: "editor" }, field, help ? h("p", { class: "quiet" }, help) : null,
    h("p", { class: "actions" }, h("button", { type: "button", onclick: close }, t("chat.cancel")), h("button", { type: "button", class: "primary", onclick: send }, label)));
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && event.ctrlKey) send();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  element.classList.add("editing");
  element.append(editor);
  field.focus();
}

/** An answer that is being written. */
export class Growing {
  constructor(side, model) {
    this.text = "";
    this.formatted = h("div", { class: "formatted", dir: "auto" });
    this.tail = h("span", { class: "tail", dir: "auto" });
    this.state = h("p", { class: "quiet state-line" }, t("chat.loading"));
    this.notice = h("div", {});
    this.element = h("article", { class: "turn assistant growing", "aria-busy": "true" }, this.notice,
      h("header", {}, side ? h("span", { class: "letter", "aria-hidden": "true" }, side) : null, h("span", { class: "role" }, model)),
      h("div", { class: "text" }, this.formatted, this.tail), this.state);
  }

  hear(event) {
    if (event.type === "queued") this.state.textContent = t("chat.queued", { place: event.place });
    else if (event.type === "started") {
      this.state.textContent = t("chat.writing");
      this.notice.replaceChildren(...[dropped(event.dropped)].filter(Boolean));
    } else if (event.type === "piece") this.tail.append(event.text);
    else if (event.type === "text") {
      this.formatted.replaceChildren(...nodes(event.nodes));
      this.tail.replaceChildren();
    } else if (event.type === "failed") {
      this.fail(t("chat.failed", { reason: event.error }));
    }
  }

  breakOff() {
    if (!this.done && !this.failed) this.fail(t("chat.broken_off"));
  }

  fail(words) {
    this.state.textContent = words;
    this.state.classList.add("wrong");
    this.element.removeAttribute("aria-busy");
  }
}

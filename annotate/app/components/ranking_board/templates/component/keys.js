// Keys of a board or a page. Keys typed into a field or a dialog belong to the field or the dialog.

import { h } from "./dom.js";
import { t } from "./words.js";

export const typing = (target) =>
  target instanceof HTMLElement &&
  (target.isContentEditable || target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])"));

/** One listener: on a whole page, or on a board that is one of many things on it. */
export class Keys {
  constructor(target) {
    this.bindings = [];
    this.deaf = false;
    target.addEventListener("keydown", (event) => this._pressed(event));
  }

  /** The keys from now on: [{keys: ["g"], text: "shown in help", run}, …]; `code` instead of keys compares event.code. */
  bind(list) {
    this.bindings = list;
  }

  /** Whether keys are ignored: those meant for the next task must not change the one on its way to the server. */
  ignore(ignored) {
    this.deaf = ignored;
  }

  /** The list that `?` shows. */
  table() {
    const rows = this.bindings
      .filter((binding) => binding.text)
      .map((binding) => h("tr", {}, h("td", {}, ...(binding.shown ?? binding.keys).map((key) => h("kbd", {}, key))), h("td", {}, binding.text)));
    return h("table", { class: "keys" }, h("caption", { class: "quiet" }, t("help.caption")), h("tbody", {}, ...rows));
  }

  _pressed(event) {
    if (this.deaf) return;
    if (event.defaultPrevented || event.isComposing || event.altKey || event.metaKey || event.repeat) return;
    if (document.querySelector("dialog[open]")) return;
    const inField = typing(event.target);
    for (const binding of this.bindings) {
      if (!matches(binding, event)) continue;
      if (inField && !binding.everywhere) continue;
      if (!binding.everywhere && belongsToControl(event)) continue;
      if (binding.run(event) !== false) event.preventDefault();
      return;
    }
  }
}

function matches(binding, event) {
  if (Boolean(binding.ctrl) !== event.ctrlKey) return false;
  if (binding.code) return binding.code.test(event.code) && Boolean(binding.shift) === event.shiftKey;
  return binding.keys.includes(event.key.length === 1 ? event.key.toLowerCase() : event.key);
}

/** Enter and space on a link, button or box, and arrows within radio buttons or boxes, do what they always do. */
function belongsToControl(event) {
  const control = event.target.closest?.("button, a, input, summary");
  if (!control) return false;
  if (event.key === "Enter" || event.key === " ") return !control.matches("input[type=radio]");
  return event.key.startsWith("Arrow") && control.matches("input");
}

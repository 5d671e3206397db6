// Which batch this is, and the way to another one.

import { call } from "./api.js";
import { h } from "./board/dom.js";
import { at, t } from "./boot.js";

const OTHERS_AFTER_MS = 500;

class BatchChoice {
  constructor() {
    this.shown = false;
    this.select = h("select", { onchange: () => this._go() });
    this.known = null;
  }

  show({ element }) {
    this.shown = true;
    element.replaceChildren(h("label", { class: "batch-choice" }, t("work.batch"), " ", this.select));
  }

  /** The batch of the task that is shown; the others are asked for once there is time. */
  of(name) {
    if (name === this.known) return;
    this.known = name;
    this.select.replaceChildren(h("option", { value: name, selected: true }, name));
    setTimeout(() => this._others().catch(() => null), OTHERS_AFTER_MS);
  }

  async _others() {
    if (!this.shown) return; // on a page without this part
    const { batches } = await call("GET", "/api/batches");
    const others = batches.map((batch) => batch.name).filter((name) => name !== this.known);
    this.select.append(...others.map((name) => h("option", { value: name }, name)));
  }

  _go() {
    location.assign(at(`/label/?batch=${encodeURIComponent(this.select.value)}`));
  }
}

export const batchChoice = new BatchChoice();

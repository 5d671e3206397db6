// How far the batch is, and one's own answers in it; shown wherever the page has a place for it.

import { call } from "./api.js";
import { h } from "./board/dom.js";
import { t } from "./boot.js";

const EVERY_MS = 15_000;

class Progress {
  constructor() {
    this.place = null;
    this.found = null;
    this.asked = -EVERY_MS;
  }

  show({ element }) {
    this.place = h("div", { id: "progress" });
    element.append(this.place);
    this._draw();
  }

  /** Asks the server now and then only: it counts the whole batch for it. `now`: the page that stays, so it must be right. */
  async of(batch, { now = false, hidden = false } = {}) {
    this.hidden = hidden;
    if (hidden || (!now && performance.now() - this.asked < EVERY_MS)) return this._draw();
    this.asked = performance.now();
    this.found = (await call("GET", `/api/progress?batch=${encodeURIComponent(batch)}`).catch(() => null)) ?? this.found;
    return this._draw();
  }

  /** One's own answers are counted here too, so that they show at once. */
  countOwn() {
    if (!this.found) return;
    this.found.own.answers += 1;
    this.found.own.today += 1;
    this._draw();
  }

  _draw() {
    if (!this.place) return;
    this.place.hidden = this.hidden || !this.found;
    if (this.place.hidden) return;
    const { own, finished, tasks } = this.found;
    const [done, total] = own.quota ? [own.answers, own.quota] : [finished, tasks];
    this.place.replaceChildren(
      h("progress", { max: String(Math.max(total, 1)), value: String(done), "aria-label": t("work.progress") }),
      h("span", {}, t(own.quota ? "work.progress_quota" : "work.progress_count", { done, total, own: own.answers, today: own.today })),
    );
  }
}

export const progress = new Progress();

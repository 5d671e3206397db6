// The order so far, best to worst, as chips: drag one between others to move it, onto another to tie them.

import { t } from "./words.js";
import { letter } from "./card.js";
import { h } from "./dom.js";

const DRAG_AFTER_PX = 5;

/** strip.draw() after every change of `ranking`; select(i) is called for a chip that was clicked. */
export class Strip {
  constructor(ranking, { changed, select }) {
    this.ranking = ranking;
    this.changed = changed;
    this.select = select;
    this.element = h("div", { class: "strip", role: "group", "aria-label": t("rank.order") });
    this.element.addEventListener("pointerdown", (event) => this._grab(event));
    this.draw();
  }

  draw(current = null) {
    const groups = this.ranking.groups();
    const places = groups.flatMap((group, place) => [
      h("span", { class: "gap", "data-gap": place }),
      h("span", { class: "group", "data-join": group[0] }, ...group.map((i) => this._chip(i, current))),
    ]);
    const waiting = this.ranking.unranked;
    this.element.replaceChildren(
      h("span", { class: "end" }, t("rank.best")),
      h("span", { class: "groups" }, ...places, h("span", { class: "gap last", "data-gap": groups.length }, groups.length ? "" : t("rank.drop_here"))),
      h("span", { class: "end" }, t("rank.worst")),
      h("span", { class: "tray", hidden: !waiting.length }, h("span", { class: "quiet" }, t("rank.unranked")), ...waiting.map((i) => this._chip(i, current))),
    );
  }

  _chip(i, current) {
    return h("button", { type: "button", class: i === current ? "chip current" : "chip", tabindex: "-1", "data-chip": i, "aria-label": t("rank.answer", { letter: letter(i) }), onclick: () => this.select(i) }, letter(i));
  }

  _grab(event) {
    const chip = event.target.closest("[data-chip]");
    if (!chip || event.button !== 0) return;
    const drag = { answer: Number(chip.dataset.chip), x: event.clientX, y: event.clientY, ghost: null };
    const move = (moved) => this._drag(drag, chip, moved);
    const end = (ended) => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
      if (drag.ghost) this._drop(drag, ended);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
  }

  _drag(drag, chip, event) {
    if (!drag.ghost) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_AFTER_PX) return;
      drag.ghost = h("span", { class: "chip ghost" }, letter(drag.answer));
      this.element.append(drag.ghost);
      chip.classList.add("lifted");
      this.element.classList.add("dragging");
    }
    drag.ghost.style.transform = `translate(${event.clientX - 18}px, ${event.clientY - 22}px)`;
    for (const old of this.element.querySelectorAll(".over")) old.classList.remove("over");
    this._target(event)?.classList.add("over");
  }

  _drop(drag, event) {
    drag.ghost.remove();
    this.element.classList.remove("dragging");
    const target = event.type === "pointerup" ? this._target(event) : null;
    if (target?.dataset.gap !== undefined) this.ranking.insert(drag.answer, Number(target.dataset.gap));
    else if (target?.dataset.join !== undefined) this.ranking.join(drag.answer, Number(target.dataset.join));
    this.changed(drag.answer);
  }

  /** The gap or group under the pointer; within the strip the nearest one, so that nobody has to aim. */
  _target(event) {
    const places = [...this.element.querySelectorAll("[data-gap], [data-join]")];
    const box = this.element.getBoundingClientRect();
    if (event.clientY < box.top - 24 || event.clientY > box.bottom + 24) return null;
    const distance = (place) => {
      const { left, right, top, bottom } = place.getBoundingClientRect();
      return Math.hypot(Math.max(left - event.clientX, 0, event.clientX - right), Math.max(top - event.clientY, 0, event.clientY - bottom));
    };
    return places.reduce((best, place) => (best && distance(best) <= distance(place) ? best : place), null);
  }
}

// One task after another: fetch, draft, submit, and say what happens to an answer on its way to the disk.

import { Refused, call, deliverUnsent, isUnsent, submitSurely } from "./api.js";
import { batchChoice } from "./batch.js";
import { Board } from "./board/board.js";
import { h } from "./board/dom.js";
import { at, t } from "./boot.js";
import { Fields } from "./fields.js";
import { guidelines, help, showGuidelines, unseenGuidelines } from "./dialogs.js";
import { keys } from "./keys.js";
import { layout } from "./layout.js";
import { progress } from "./progress.js";
import { say, toast } from "./status.js";
import { served } from "./whole.js";

const DRAFT_AFTER_MS = 500;
const POLL_MS = 3000;
const DAY_S = 86_400;
const RENEW_EVERY_MS = 300_000;

const next = (batch) => call("POST", `/api/next${batch === null ? "" : `?batch=${encodeURIComponent(batch)}`}`);

export class Work {
  /** batch: whose tasks, null for any. editing: an earlier answer to open instead.
   *  The first task is asked for at once, unless an answer to it may still wait in this browser. */
  constructor(batch, editing) {
    this.batch = batch;
    this.editing = editing;
    this.first = editing || isUnsent() ? null : next(batch);
    this.first?.catch(() => null); // whoever waits for it hears of the error
    this.busy = false; // from submitting until the next task is there
    this.unsent = false; // until the server has the answer
    this.last = null; // the answer submitted last, for U on an untouched page
    this.task = null;
    document.addEventListener("visibilitychange", () => this._visibility());
    window.addEventListener("pagehide", () => this._saveNow(true));
    window.addEventListener("beforeunload", (event) => { if (this.unsent) event.preventDefault(); });
  }

  /** Show tasks in a place of the page; trigger(event): tells Python's handlers of the page. */
  async begin({ element, trigger, shared, state }) {
    this.container = element;
    this.trigger = trigger;
    this.fields = new Fields(shared, state.fields, () => this._changed());
    await deliverUnsent((error) => this._report(error));
    if (this.editing) await this._edit(this.editing);
    else await this.next();
  }

  async next() {
    const ask = () => { const asked = this.first ?? next(this.batch); this.first = null; return asked; };
    const found = await this._patiently(ask);
    if (found.task) this._show(found.task, found.task.draft ?? {}, null, await unseenGuidelines(found.task));
    else this._nothing(found.reason);
  }

  async _edit(annotation) {
    const past = await this._patiently(() => call("GET", `/api/history/${annotation}`));
    this.batch = past.task.batch;
    this._show(past.task, past.task.draft ?? past.given, past, await unseenGuidelines(past.task));
  }

  /** The page of a task, with its guidelines on top where they are new: at once, so that no key falls in between. */
  _show(task, given, past, rules) {
    this._lock(false);
    Object.assign(this, { task, past, hurry: null, revision: 0, lent: performance.now() });
    this.seconds = given.time_s ?? 0;
    this.since = document.visibilityState === "visible" ? performance.now() : null;
    this.board = new Board(served(task), given, {
      changed: () => this._changed(), submit: (said) => this._submit(said), say: toast,
    }, { buttons: this._buttons(), words: t(past ? "work.save" : "work.submit") });
    this.container.replaceChildren(h("h1", { class: "hidden-text" }, task.batch), this._banner(), this.board.page.element, this.board.foot);
    this.fields.show(given.fields);
    batchChoice.of(task.batch);
    progress.of(task.batch, { hidden: task.asks.show_progress === false });
    keys.bind([...this.board.bindings(), ...this._bindings()]);
    window.scrollTo(0, 0);
    this.board.page.start();
    if (rules) showGuidelines(task.batch, rules);
  }

  _banner() {
    if (!this.past) return "";
    const overruled = this.past.overruled;
    return h("p", { class: overruled ? "banner overruled" : "banner" }, t("history.editing"), " ", overruled ? t("history.overruled_by", { name: overruled.by }) : "", " ",
      h("a", { href: at(`/label/?batch=${encodeURIComponent(this.batch)}`) }, t("history.back_to_work")));
  }

  get _mayskip() {
    return !this.past && this.task.asks.may_skip !== false;
  }

  _buttons() {
    const button = (act, text, key) => h("button", { type: "button", onclick: act }, text, " ", h("kbd", {}, key));
    return [this._mayskip ? button(() => this.skip(), t("work.skip"), "S") : "", button(() => this.undo(), t("work.undo"), "U")];
  }

  _bindings() {
    return [
      ...(this._mayskip ? [{ keys: ["s"], shown: ["S"], text: t("help.skip"), run: () => this.skip() }] : []),
      { keys: ["u"], shown: ["U"], text: t("help.undo"), run: () => this.undo() },
      { keys: ["g"], shown: ["G"], text: t("help.guidelines"), run: () => guidelines(this.task.batch) },
      { keys: ["v"], shown: ["V"], text: t("help.raw"), run: () => document.body.classList.toggle("show-raw") },
      { keys: ["l"], shown: ["L"], text: t("help.layout"), run: () => layout(true) },
      { keys: ["?"], shown: ["?"], text: t("help.help"), run: help },
    ];
  }

  async undo() {
    if (this.busy || this.board.undo()) return;
    if (this.last && !this.past) await this._edit(this.last);
    else toast(t("work.nothing_to_undo"));
  }

  skip() {
    return this._send({ kind: "skip" });
  }

  /** With what the page's own fields say at this moment. */
  async _submit(said) {
    const fields = await this.fields.read();
    const missing = this.fields.missing();
    if (missing) return toast(t("work.field_missing", { label: missing }));
    return this._send({ ...said, fields });
  }

  async _send(said) {
    if (this.busy) return;
    const focused = document.activeElement;
    clearTimeout(this.hurry);
    this._lock(true);
    try {
      const answer = { client_id: this.task.client_id, time_s: this._time(), ...said };
      const stored = await submitSurely(`/api/tasks/${this.task.id}/answers`, answer, (error) => this._report(error));
      this.unsent = false;
      this.last = stored.id;
      toast(t(stored.repeated ? "work.repeated" : said.kind === "skip" ? "work.skipped" : stored.late ? "work.late" : "work.stored"));
      if (said.kind !== "skip" && !stored.repeated && !this.past) progress.countOwn();
      document.dispatchEvent(new Event("rlhf-stored"));
      this.trigger("submit");
      if (this.past) window.location.assign(at("/label/history"));
      else await this.next();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this._lock(false);
      focused?.focus();
      this._report(error);
    }
  }

  /** While an answer is on its way the page takes nothing more: it would be lost with the task. */
  _lock(locked) {
    this.busy = this.unsent = locked;
    this.container.inert = locked;
    this.container.classList.toggle("sending", locked);
    keys.ignore(locked);
  }

  // Drafts and time

  _changed() {
    clearTimeout(this.hurry);
    this.hurry = setTimeout(() => this._saveNow(), DRAFT_AFTER_MS);
    this.trigger("select");
  }

  async _saveNow(leaving = false) {
    if (!this.task || this.busy || (leaving && this.hurry === null)) return;
    clearTimeout(this.hurry);
    this.hurry = null;
    const content = { ...this.board.state(), fields: this.fields.values, time_s: this._time() };
    this.revision = Math.max(Date.now(), this.revision + 1);
    const { task, board } = this;
    try {
      await call("PUT", `/api/tasks/${task.id}/draft`, { content, revision: this.revision }, { keepalive: leaving });
      await this._keepPlace(task);
      if (task === this.task && !this.busy) board.saved.textContent = t("work.draft_saved");
      say(null);
    } catch (error) {
      if (task !== this.task || this.busy) return;
      board.saved.textContent = t("work.draft_unsaved");
      this._report(error);
      if (error.passing) this.hurry = setTimeout(() => this._saveNow(), 3000);
    }
  }

  /** Somebody who types needs the task for longer than it was lent. */
  async _keepPlace(task) {
    if (this.past || performance.now() - this.lent < RENEW_EVERY_MS) return;
    this.lent = performance.now();
    await call("POST", `/api/tasks/${task.id}/renew`);
  }

  /** Seconds of attention, those of an earlier version or a draft included; a server takes a day at most. */
  _time() {
    const seconds = this.seconds + (this.since === null ? 0 : (performance.now() - this.since) / 1000);
    return Math.min(Math.round(10 * seconds) / 10, DAY_S);
  }

  _visibility() {
    if (!this.task) return;
    if (document.visibilityState === "visible") this.since = performance.now();
    else {
      this.seconds = this._time();
      this.since = null;
      this._saveNow(true);
    }
  }

  // Waiting and failing

  _report(error) {
    if (error === null) return say(null);
    if (error.status === 401) return say(t("error.signed_out"), { href: at(`/login?next=${encodeURIComponent(location.pathname + location.search)}`), text: t("login.submit") });
    say(error.status === 0 ? t("error.unreachable") : error.passing ? t("error.cannot_write", { reason: error.message }) : t("error.refused", { reason: error.message }));
  }

  async _patiently(ask) {
    for (;;) {
      try {
        const found = await ask();
        say(null);
        return found;
      } catch (error) {
        this._report(error);
        if (!error.passing) throw error;
        await new Promise((resolve) => setTimeout(resolve, 2000));
      }
    }
  }

  _nothing(reason) {
    this._lock(false);
    if (this.batch !== null) {
      batchChoice.of(this.batch);
      progress.of(this.batch, { now: this.task !== null });
    }
    this.task = null;
    keys.bind([{ keys: ["?"], run: help }]);
    this.container.replaceChildren(h("section", { class: "nothing" },
      h("h1", {}, t(`nothing.${reason || "busy"}`)),
      h("p", {}, h("a", { href: at("/label/tasks") }, t("home.title")), " · ", h("a", { href: at("/label/history") }, t("history.title"))),
    ));
    if (reason === "sampling" || !reason) setTimeout(() => this.next(), POLL_MS);
  }
}

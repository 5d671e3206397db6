// One task after another: fetch, draft, submit, and say what happens to an answer on its way to the disk.

import { Refused, call, deliverUnsent, forget, isUnsent, nameOf, submitSurely } from "./api.js";
import { batchChoice } from "./batch.js";
import { Board } from "./board/board.js";
import { h } from "./board/dom.js";
import { at, t } from "./boot.js";
import { Fields } from "./fields.js";
import { guidelines, help, showGuidelines, unseenGuidelines } from "./dialogs.js";
import { keys } from "./keys.js";
import { layout } from "./layout.js";
import { progress } from "./progress.js";
import { report, say, toast } from "./status.js";
import { served } from "./whole.js";

const DRAFT_AFTER_MS = 500;
const POLL_MS = { sampling: 3000, busy: 15_000 };
const DAY_S = 86_400;
const RENEW_EVERY_MS = 300_000;

const ANSWERS = "/api/tasks/";

const next = (batch) => call("POST", `/api/next${batch === null ? "" : `?batch=${encodeURIComponent(batch)}`}`);

export class Work {
  /** batch: whose tasks, null for any. editing: an earlier answer to open instead.
   *  The first task is asked for at once, unless an answer to it may still wait in this browser. */
  constructor(batch, editing) {
    this.batch = batch;
    this.editing = editing;
    this.refused = []; // answers that this browser kept and the server does not take, to be opened on their tasks
    this.kept = null; // the name of the one that is open
    this.first = editing || isUnsent(ANSWERS) ? null : next(batch);
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
    this.refused = await deliverUnsent(ANSWERS);
    await this.next();
  }

  async next() {
    if (this.refused.length) return this._reopen(this.refused.shift());
    if (this.editing) return this._edit(this.editing);
    const ask = () => { const asked = this.first ?? next(this.batch); this.first = null; return asked; };
    const found = await this._patiently(ask);
    if (found.task) this._show(found.task, found.task.draft ?? {}, null, await unseenGuidelines(found.task));
    else this._nothing(found.reason);
  }

  /** A kept answer that was refused, on its task: to be changed and sent again, or thrown away. */
  async _reopen(kept) {
    const open = () => call("POST", `${kept.path.slice(0, kept.path.lastIndexOf("/"))}/open`);
    const found = await this._patiently(open).catch((error) => { if (error instanceof Refused && !error.signedOut) return null; throw error; });
    const elsewhere = found && found.task.client_id !== kept.answer.client_id;
    const why = h("p", { class: "banner" }, elsewhere ? t("unsent.elsewhere") : t("unsent.refused", { reason: kept.error.message }), " ",
      h("button", { type: "button", id: "discard", onclick: () => this._discard() }, t("unsent.discard")));
    if (found) this._show(found.task, kept.typed ?? found.task.draft ?? {}, null, null, why);
    else this.container.replaceChildren(why, h("pre", {}, JSON.stringify(kept.answer, null, 2)));
    Object.assign(this, { kept: kept.name, answered: elsewhere });
  }

  async _edit(annotation) {
    this.editing = null;
    const past = await this._patiently(() => call("GET", `/api/history/${annotation}`));
    this.batch = past.task.batch;
    this._show(past.task, past.task.draft ?? past.given, past, await unseenGuidelines(past.task));
  }

  /** The page of a task, with its guidelines on top where they are new: at once, so that no key falls in between. */
  _show(task, given, past, rules, why = "") {
    this._lock(false);
    Object.assign(this, { task, past, kept: null, answered: false, troubled: false, hurry: null, revision: task.revision, lent: performance.now() });
    this.seconds = given.time_s ?? 0;
    this.since = document.visibilityState === "visible" ? performance.now() : null;
    this.board = new Board(served(task), given, {
      changed: () => this._changed(), submit: (said) => this._submit(said), say: toast,
    }, { buttons: this._buttons(), words: t(past ? "work.save" : "work.submit") });
    this.container.replaceChildren(h("h1", { class: "hidden-text" }, task.batch), this._banner(), why, this.board.page.element, this.board.foot);
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
    if (!this.last || this.past) return toast(t("work.nothing_to_undo"));
    this._lock(true); // keys for the answer that is coming are not for the task that is still shown
    this.unsent = false;
    try {
      await this._edit(this.last);
    } finally {
      this._lock(false);
    }
  }

  /** A task that was answered elsewhere is left as that answer has it. */
  skip() {
    return this.answered ? this._discard() : this._send({ kind: "skip" });
  }

  /** Throw away what is on the page. */
  _discard() {
    if (this.kept) forget(this.kept);
    say(null);
    return this.next();
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
      const stored = await submitSurely(`${ANSWERS}${this.task.id}/answers`, answer, this._typed());
      if (this.kept) forget(this.kept);
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
      await this._takeBack(said, error);
    }
  }

  /** A refused answer stays on the page. Where the task was answered elsewhere meanwhile, the next try is one more version. */
  async _takeBack(said, error) {
    report(error);
    if (error.signedOut) return;
    const found = await call("POST", `${ANSWERS}${this.task.id}/open`).catch(() => null);
    if (!found || found.task.client_id === this.task.client_id) return this._saveNow();
    if (said.kind === "skip") {
      say(null);
      toast(t("work.repeated"));
      return this.next();
    }
    this.kept ??= nameOf(this.task);
    this.task.client_id = found.task.client_id;
    Object.assign(this, { answered: true, revision: found.task.revision });
    say(t("unsent.elsewhere"));
  }

  /** What is on the page, as a draft or a kept answer gives it back. */
  _typed() {
    return { ...this.board.state(), fields: this.fields.values, time_s: this._time() };
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
    const { task, board } = this;
    const draft = { content: this._typed(), revision: ++this.revision, client_id: task.client_id };
    try {
      const stored = await call("PUT", `${ANSWERS}${task.id}/draft`, draft, { keepalive: leaving });
      await this._keepPlace(task);
      if (task === this.task && !this.busy) this._drafted(draft, stored);
    } catch (error) {
      if (task !== this.task || this.busy) return;
      board.saved.textContent = t("work.draft_unsaved");
      this.troubled = true;
      report(error);
      if (error.passing) this.hurry = setTimeout(() => this._saveNow(), 3000);
    }
  }

  /** Says what became of a draft. One that another window has overtaken is kept with the next change made here. */
  _drafted(draft, { saved, answered, revision }) {
    if (!saved && !answered && revision !== draft.revision && revision <= this.revision) return; // by a later one from here
    this.revision = Math.max(this.revision, revision);
    this.board.saved.textContent = t(saved ? "work.draft_saved" : "work.draft_unsaved");
    if (!saved) say(t(answered ? "unsent.elsewhere" : "unsent.draft"));
    else if (this.troubled) say(null);
    this.troubled = !saved;
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

  async _patiently(ask) {
    for (;;) {
      try {
        const found = await ask();
        say(null);
        return found;
      } catch (error) {
        report(error);
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
    const pause = POLL_MS[reason || "sampling"];
    if (pause) setTimeout(() => this.next(), pause);
  }
}

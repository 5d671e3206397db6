// One task after another: fetch, draft, submit, and say what happens to an answer on its way to the disk.

import { Refused, call, deliverUnsent, submitSurely } from "./api.js";
import { t } from "./boot.js";
import { guidelines, help, showGuidelines, unseenGuidelines } from "./dialogs.js";
import { h } from "./dom.js";
import { bind, ignoreKeys } from "./keys.js";
import { PairPage } from "./pair_page.js";
import { RankPage } from "./rank_page.js";
import { say, toast } from "./status.js";
import { WritePage } from "./write_page.js";

const DRAFT_AFTER_MS = 500;
const POLL_MS = 3000;
const PROGRESS_EVERY_MS = 15_000;
const RENEW_EVERY_MS = 300_000;

export class Work {
  constructor(container, batch) {
    this.container = container;
    this.batch = batch;
    this.busy = false; // from submitting until the next task is there
    this.unsent = false; // until the server has the answer
    this.counted = -PROGRESS_EVERY_MS;
    this.last = null; // the answer submitted last, for U on an untouched page
    document.addEventListener("visibilitychange", () => this._visibility());
    window.addEventListener("pagehide", () => this._saveNow(true));
    window.addEventListener("beforeunload", (event) => { if (this.unsent) event.preventDefault(); });
  }

  async begin(editing = null) {
    await deliverUnsent((error) => this._report(error));
    if (editing) await this._edit(editing);
    else await this.next();
  }

  async next() {
    const found = await this._patiently(() => call("POST", `/api/next?batch=${encodeURIComponent(this.batch)}`));
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
    Object.assign(this, { task, past, asked: false, hurry: null, revision: 0, lent: performance.now() });
    this.seconds = given.time_s ?? 0;
    this.since = document.visibilityState === "visible" ? performance.now() : null;
    const Page = task.kind === "demonstrate" ? WritePage : task.answers.length === 2 ? PairPage : RankPage;
    this.page = new Page(task, given, () => this._changed());
    this.comment = h("textarea", { id: "comment", rows: "2", dir: "auto", placeholder: t("work.comment"), "aria-label": t("work.comment"), value: given.comment ?? "", oninput: () => this._changed() });
    this.none = h("input", { type: "checkbox", id: "none", checked: Boolean(given.none_acceptable), onchange: () => this._changed() });
    this.container.replaceChildren(this._banner(), this.page.element, this._foot());
    this._progress();
    bind([...this.page.bindings(), ...this._bindings()]);
    this.page.start();
    if (rules) showGuidelines(task.batch, rules);
  }

  _banner() {
    if (!this.past) return "";
    const overruled = this.past.overruled;
    return h("p", { class: overruled ? "banner overruled" : "banner" }, t("history.editing"), " ", overruled ? t("history.overruled_by", { name: overruled.by }) : "", " ",
      h("a", { href: `/label?batch=${encodeURIComponent(this.batch)}` }, t("history.back_to_work")));
  }

  _foot() {
    const { asks } = this.task;
    const more = [];
    if (asks.none_acceptable) more.push(h("label", { class: "none", for: "none" }, this.none, " ", t("work.none_acceptable"), " ", h("kbd", {}, "N")));
    if (asks.comment) more.push(h("details", { class: "comment", open: this.comment.value !== "" }, h("summary", {}, t("work.comment"), " ", h("kbd", {}, "C")), this.comment));
    return h("footer", { class: "foot" },
      h("div", { class: "more" }, ...more),
      h("div", { class: "actions" },
        h("span", { id: "saved", class: "quiet", role: "status" }),
        this.past ? null : h("button", { type: "button", onclick: () => this.skip() }, t("work.skip"), " ", h("kbd", {}, "S")),
        h("button", { type: "button", onclick: () => this.undo() }, t("work.undo"), " ", h("kbd", {}, "U")),
        h("button", { type: "button", id: "submit", class: "primary", onclick: () => this.submit() }, t(this.past ? "work.save" : "work.submit"), " ", h("kbd", {}, this.task.kind === "demonstrate" ? "Ctrl ⏎" : "⏎")),
      ),
    );
  }

  _bindings() {
    const { asks } = this.task;
    return [
      { keys: ["Enter"], shown: ["⏎"], text: t("help.submit"), run: () => this.submit() },
      { keys: ["Enter"], shown: ["Ctrl", "⏎"], text: t("help.submit_anywhere"), ctrl: true, everywhere: true, run: () => this.submit() },
      ...(this.past ? [] : [{ keys: ["s"], shown: ["S"], text: t("help.skip"), run: () => this.skip() }]),
      { keys: ["u"], shown: ["U"], text: t("help.undo"), run: () => this.undo() },
      ...(asks.none_acceptable ? [{ keys: ["n"], shown: ["N"], text: t("work.none_acceptable"), run: () => { this.none.checked = !this.none.checked; this._changed(); } }] : []),
      ...(asks.comment ? [{ keys: ["c"], shown: ["C"], text: t("help.comment"), run: () => { this.comment.closest("details").open = true; this.comment.focus(); } }] : []),
      { keys: ["g"], shown: ["G"], text: t("help.guidelines"), run: () => guidelines(this.task.batch) },
      { keys: ["v"], shown: ["V"], text: t("help.raw"), run: () => document.body.classList.toggle("show-raw") },
      { keys: ["l"], shown: ["L"], text: t("help.layout"), run: () => layout(true) },
      { keys: ["?"], shown: ["?"], text: t("help.help"), run: help },
      { keys: ["Escape"], everywhere: true, run: () => this.page.start() },
    ];
  }

  async undo() {
    if (this.busy || this.page.undo()) return;
    if (this.last && !this.past) await this._edit(this.last);
    else toast(t("work.nothing_to_undo"));
  }

  skip() {
    return this._send({ kind: "skip" });
  }

  /** Submit what is on the page; asks once where it is doubtful. */
  submit() {
    const none = this.task.asks.none_acceptable && this.none.checked;
    const missing = none ? null : this.page.missing?.();
    if (missing) return toast(missing);
    const doubt = none || this.asked ? null : this.page.doubt();
    if (doubt) {
      this.asked = true;
      return toast(`${doubt} ${t("work.again")}`);
    }
    const said = none && (this.page.missing?.() || this.page.ranking?.untouched) ? {} : this.page.answer();
    return this._send({ kind: this.task.kind, ...said, none_acceptable: none, comment: this.comment.value });
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
      if (said.kind !== "skip" && !stored.repeated && !this.past) this._countOwn();
      if (this.past) window.location.assign("/history");
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
    ignoreKeys(locked);
  }

  /** Asks the server now and then only: it counts the whole batch for it. `now`: the page that stays, so it must be right. */
  async _progress(now = false) {
    if (!now && performance.now() - this.counted < PROGRESS_EVERY_MS) return;
    this.counted = performance.now();
    this.progress = (await call("GET", `/api/progress?batch=${encodeURIComponent(this.batch)}`).catch(() => null)) ?? this.progress;
    this._drawProgress();
  }

  /** One's own answers are counted here too, so that they show at once. */
  _countOwn() {
    if (!this.progress) return;
    this.progress.own.answers += 1;
    this.progress.own.today += 1;
    this._drawProgress();
  }

  _drawProgress() {
    const place = document.getElementById("progress");
    if (!this.progress || !place) return;
    const { own, finished, tasks } = this.progress;
    const [done, total] = own.quota ? [own.answers, own.quota] : [finished, tasks];
    place.replaceChildren(
      h("progress", { max: String(Math.max(total, 1)), value: String(done), "aria-label": t("work.progress") }),
      h("span", {}, t(own.quota ? "work.progress_quota" : "work.progress_count", { done, total, own: own.answers, today: own.today })),
    );
  }

  // Drafts and time

  _changed() {
    this.asked = false;
    clearTimeout(this.hurry);
    this.hurry = setTimeout(() => this._saveNow(), DRAFT_AFTER_MS);
  }

  async _saveNow(leaving = false) {
    if (!this.task || this.busy || (leaving && this.hurry === null)) return;
    clearTimeout(this.hurry);
    this.hurry = null;
    const content = { ...this.page.state(), comment: this.comment.value, none_acceptable: this.none.checked, time_s: this._time() };
    this.revision = Math.max(Date.now(), this.revision + 1);
    const { task } = this;
    try {
      await call("PUT", `/api/tasks/${task.id}/draft`, { content, revision: this.revision }, { keepalive: leaving });
      await this._keepPlace(task);
      if (task === this.task && !this.busy) saved(t("work.draft_saved"));
      say(null);
    } catch (error) {
      if (task !== this.task || this.busy) return;
      saved(t("work.draft_unsaved"));
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

  _time() {
    return Math.round(10 * (this.seconds + (this.since === null ? 0 : (performance.now() - this.since) / 1000))) / 10;
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
    if (error.status === 401) return say(t("error.signed_out"), { href: `/login?next=${encodeURIComponent(location.pathname + location.search)}`, text: t("login.submit") });
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
    this._progress(this.task !== null);
    this.task = null;
    bind([{ keys: ["?"], run: help }]);
    this.container.replaceChildren(h("section", { class: "nothing" },
      h("h2", {}, t(`nothing.${reason || "busy"}`)),
      h("p", {}, h("a", { href: "/tasks" }, t("home.title")), " · ", h("a", { href: "/history" }, t("history.title"))),
    ));
    if (reason === "sampling" || !reason) setTimeout(() => this.next(), POLL_MS);
  }
}

function saved(text) {
  const place = document.getElementById("saved");
  if (place) place.textContent = text;
}

/** Side by side or below each other; remembered in this browser. */
export function layout(toggle = false) {
  const stacked = (localStorage.getItem("rlhf-layout") === "stacked") !== toggle;
  localStorage.setItem("rlhf-layout", stacked ? "stacked" : "beside");
  document.body.classList.toggle("stacked", stacked);
}


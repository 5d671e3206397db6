// Where labelers disagree: their answers side by side, and the lead's verdict beside them.

import { call, deliverUnsent, forget, nameOf, submitSurely } from "./api.js";
import { pageOf } from "./board/board.js";
import { letter } from "./board/card.js";
import { h } from "./board/dom.js";
import { at, t } from "./boot.js";
import { guidelines, help } from "./dialogs.js";
import { fieldsText } from "./fields.js";
import { keys } from "./keys.js";
import { say, toast, told } from "./status.js";
import { served } from "./whole.js";

const ASK_AGAIN_MS = 500;
const MANY = 20;

const after = ({ place }) => `&after=${encodeURIComponent(place)}`;

/** One disagreement at a time, the worst first, of the batch in the page's address. */
export async function review(place) {
  const refused = await deliverUnsent("/api/lead/tasks/");
  await new Review(place).begin(refused);
}

class Review {
  constructor({ element }) {
    const query = new URLSearchParams(location.search);
    this.container = element;
    this.batch = query.get("batch") ?? "";
    this.peopleOnly = query.get("people_only") === "true";
    this.seen = []; // {id, place} of the tasks that were looked at: by its verdict a task moves to the end of the list
    this.at = 0;
    this.going = Promise.resolve();
  }

  /** refused: verdicts that this browser kept and the server did not take. */
  begin([kept]) {
    const ours = kept && kept.typed.batch === this.batch;
    if (kept) say(t("unsent.verdict", { batch: kept.typed.batch, reason: kept.error.message }), ours ? null : { href: at(`/lead/review?batch=${encodeURIComponent(kept.typed.batch)}`), text: t("lead.review") });
    return ours ? this.show(`&task=${kept.path.split("/").at(-2)}`, kept) : this.go(0);
  }

  /** One step after the other, however fast they are asked for: each begins where the one before has come to. */
  go(by) {
    this.going = this.going.catch(() => null).then(() => this._step(by));
    return this.going;
  }

  _step(by) {
    this.at = Math.max(this.at + by, 0);
    if (this.at < this.seen.length) return this.show(`&task=${this.seen[this.at].id}`, null, by);
    return this.show(this.seen.length ? after(this.seen.at(-1)) : "");
  }

  /** The task that is asked for, with a verdict that was typed before (`kept`); by: which way to go on where it is none any more. */
  async show(which, kept = null, by = 0, limit = 1) {
    const { disagreements, computing } = await call("GET", `/api/lead/disagreements?batch=${encodeURIComponent(this.batch)}&people_only=${this.peopleOnly}&limit=${limit}${which}`);
    if (computing) {
      this.container.replaceChildren(h("p", { class: "quiet" }, t("adjudicate.computing")));
      setTimeout(() => this.show(which, kept, by).catch(told), ASK_AGAIN_MS);
      return;
    }
    const known = this.at < this.seen.length || kept ? [] : this.seen.map(({ id }) => id);
    const found = disagreements.find(({ task }) => !known.includes(task.id));
    if (!found && disagreements.length) return this.show(after(disagreements.at(-1)), null, 0, MANY); // decided here just now
    if (!found && (kept || this.at < this.seen.length)) {
      this.seen.splice(this.at, 1);
      return this._step(Math.min(by, 0));
    }
    if (!found) {
      keys.bind([]);
      this.container.replaceChildren(h("section", { class: "nothing" }, h("h1", {}, t("adjudicate.nothing")), h("a", { href: at("/lead/") }, t("adjudicate.back"))));
      return;
    }
    this.seen[this.at] ??= { id: found.task.id, place: kept ? "" : found.place }; // behind a kept one the list begins
    one(this, found, kept);
  }
}

function one(review, found, kept) {
  const { container, batch, peopleOnly } = review;
  const task = served(found.task);
  const page = new (pageOf(task))(task, kept?.typed ?? {}, () => {});
  const comment = h("textarea", { id: "comment", rows: "2", "aria-label": t("adjudicate.comment"), placeholder: t("adjudicate.comment"), value: kept?.typed.comment ?? "" });
  const go = (by) => review.go(by).catch(told);
  const submit = async () => {
    const doubt = page.missing() ?? (page.ranking?.untouched ? t("adjudicate.missing") : null);
    if (doubt) return toast(doubt);
    if (container.inert) return;
    container.inert = true; // a second press would go on by two
    const typed = { ...page.state(), comment: comment.value, batch };
    try {
      await submitSurely(`/api/lead/tasks/${task.id}/verdict`, { client_id: found.client_id, kind: task.kind, comment: comment.value, ...page.answer() }, typed);
      if (kept) forget(kept.name);
      toast(t("work.stored"));
      await go(1);
    } catch (error) {
      told(error);
      if (!error.signedOut) await review.show(`&task=${task.id}`, { name: kept?.name ?? nameOf(found), typed }).catch(told); // as it is judged by now
    } finally {
      container.inert = false;
    }
  };
  container.replaceChildren(
    h("h1", {}, t("adjudicate.title", { batch })),
    h("p", { class: "quiet" }, t(task.kind === "rate" ? "adjudicate.share_ratings" : "adjudicate.share", { share: Math.round(found.share * 100) }), found.adjudicated ? ` · ${t("adjudicate.again")}` : "", " · ",
      h("a", { href: at(`/lead/review?batch=${encodeURIComponent(batch)}&people_only=${!peopleOnly}`) }, t(peopleOnly ? "adjudicate.everybody" : "adjudicate.people_only"))),
    said(found),
    page.element,
    h("footer", { class: "foot" }, h("div", { class: "more" }, comment), h("div", { class: "actions" },
      h("a", { class: "button", href: at("/lead/") }, t("adjudicate.back")),
      h("button", { type: "button", onclick: () => go(-1) }, t("adjudicate.previous")),
      h("button", { type: "button", onclick: () => go(1) }, t("adjudicate.next")),
      h("button", { type: "button", class: "primary", id: "submit", onclick: submit }, t("adjudicate.submit")),
    )),
  );
  keys.bind([
    ...page.bindings(),
    { keys: ["Enter"], shown: ["⏎"], text: t("adjudicate.submit"), run: submit },
    { keys: ["u"], shown: ["U"], text: t("help.undo"), run: () => page.undo() },
    { keys: ["g"], shown: ["G"], text: t("help.guidelines"), run: () => guidelines(batch) },
    { keys: ["?"], shown: ["?"], text: t("help.help"), run: help },
  ]);
  page.start();
}

/** A row for each labeler: the rank or rating they gave to each answer, in the order shown here. */
function said(found) {
  const rated = found.task.kind === "rate";
  const letters = found.task.answers.map((_, i) => h("th", { scope: "col" }, letter(i)));
  const rows = found.answers.map((given) =>
    h("tr", {}, h("th", { scope: "row" }, given.labeler, given.simulated ? h("span", { class: "quiet" }, ` (${t("adjudicate.simulated")})`) : null),
      ...(rated ? given.ratings : given.ranks.map((rank) => rank + 1)).map((value) => h("td", {}, String(value))), h("td", {}, [given.comment, fieldsText(given.fields)].filter(Boolean).join(" · "))),
  );
  return h("table", { class: "given" }, h("caption", {}, t(rated ? "adjudicate.given_ratings" : "adjudicate.given")), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("adjudicate.labeler")), ...letters, h("th", { scope: "col" }, t("work.comment")))), h("tbody", {}, ...rows));
}

// Where labelers disagree: their answers side by side, and the lead's verdict beside them.

import { call, submitSurely } from "./api.js";
import { pageOf } from "./board/board.js";
import { letter } from "./board/card.js";
import { h } from "./board/dom.js";
import { at, t } from "./boot.js";
import { guidelines, help } from "./dialogs.js";
import { fieldsText } from "./fields.js";
import { keys } from "./keys.js";
import { say, toast } from "./status.js";
import { served } from "./whole.js";

const ASK_AGAIN_MS = 500;

/** One disagreement at a time, the worst first, of the batch in the page's address. */
export async function review({ element: container }) {
  let offset = 0;
  const query = new URLSearchParams(location.search);
  const batch = query.get("batch") ?? "";
  const peopleOnly = query.get("people_only") === "true";
  const show = async () => {
    const { disagreements, computing } = await call("GET", `/api/lead/disagreements?batch=${encodeURIComponent(batch)}&people_only=${peopleOnly}&limit=1&offset=${offset}`);
    if (computing) {
      container.replaceChildren(h("p", { class: "quiet" }, t("adjudicate.computing")));
      setTimeout(() => show().catch((error) => say(t("error.refused", { reason: error.message }))), ASK_AGAIN_MS);
      return;
    }
    if (!disagreements.length) {
      keys.bind([]);
      container.replaceChildren(h("section", { class: "nothing" }, h("h1", {}, t("adjudicate.nothing")), h("a", { href: at("/lead/") }, t("adjudicate.back"))));
      return;
    }
    one(container, batch, disagreements[0], peopleOnly, (by) => { offset = Math.max(offset + by, 0); return show(); });
  };
  await show();
}

function one(container, batch, found, peopleOnly, go) {
  const task = served(found.task);
  const page = new (pageOf(task))(task, {}, () => {});
  const comment = h("textarea", { id: "comment", rows: "2", "aria-label": t("adjudicate.comment"), placeholder: t("adjudicate.comment") });
  const submit = async () => {
    const doubt = page.missing() ?? (page.ranking?.untouched ? t("adjudicate.missing") : null);
    if (doubt) return toast(doubt);
    try {
      await submitSurely(`/api/lead/tasks/${task.id}/verdict`, { client_id: found.client_id, kind: task.kind, comment: comment.value, ...page.answer() }, (error) => say(error && t("error.unreachable")));
      toast(t("work.stored"));
      await go(1);
    } catch (error) {
      say(t("error.refused", { reason: error.message }));
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

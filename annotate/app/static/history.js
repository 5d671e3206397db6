// One's own answers, newest first; each can be opened and changed.

import { call } from "./api.js";
import { h } from "./board/dom.js";
import { at, boot, t } from "./boot.js";
import { fieldsText } from "./fields.js";
import { told } from "./status.js";

const PAGE = 30;
const BESIDE_A_BOARD = 5;

/** On a page of its own with all answers, or beside a board with the last ones, which follow what is submitted there. */
export async function history({ element }) {
  const beside = boot.page !== "history";
  const list = h("ol", { class: "history" });
  const more = h("button", { type: "button", hidden: beside, onclick: () => load().catch(told) }, t("history.more"));
  let before = null;
  let asked = 0; // of replies that overtake each other the last one asked for counts
  const load = async () => {
    const number = ++asked;
    const limit = beside ? BESIDE_A_BOARD : PAGE;
    const { answers } = await call("GET", `/api/history?limit=${limit}${before ? `&before=${before}` : ""}`);
    if (number !== asked) return;
    if (!before) list.replaceChildren();
    list.append(...answers.map(row));
    before = answers.at(-1)?.id ?? before;
    more.hidden = beside || answers.length < PAGE;
    if (!list.children.length) list.append(h("li", { class: "quiet" }, t("history.nothing")));
  };
  const links = beside ? h("p", {}, h("a", { href: at("/label/history") }, t("history.more"))) : h("p", {}, more, " ", h("a", { href: at("/label/tasks") }, t("home.title")));
  element.replaceChildren(h(beside ? "h2" : "h1", {}, t("history.title")), list, links);
  if (beside) document.addEventListener("rlhf-stored", () => { before = null; load().catch(told); });
  await load();
}

function row(answer) {
  const when = new Date(answer.created * 1000).toLocaleString();
  const marks = [
    t(`kinds.${answer.kind}`),
    answer.versions > 1 ? t("history.versions", { count: answer.versions }) : null,
    answer.late ? t("history.late") : null,
  ].filter(Boolean);
  return h("li", { class: "card" },
    h("a", { href: at(`/label/?answer=${answer.id}`) }, h("span", { dir: "auto" }, answer.title || t("rank.empty_answer"))),
    h("p", { class: "quiet" }, `${answer.batch} · ${when} · ${marks.join(" · ")}`),
    answer.said ? h("p", {}, answer.said) : null,
    Object.keys(answer.fields).length ? h("p", { class: "quiet fields", dir: "auto" }, fieldsText(answer.fields)) : null,
    answer.overruled ? h("p", { class: "overruled" }, t("history.overruled", { name: answer.overruled.by, said: answer.overruled.said }), answer.overruled.comment ? ` “${answer.overruled.comment}”` : "") : null,
  );
}

// One's own answers, newest first; each can be opened and changed.

import { call } from "./api.js";
import { t } from "./boot.js";
import { h } from "./dom.js";

const PAGE = 30;

export async function history(container) {
  const list = h("ol", { class: "history" });
  const more = h("button", { type: "button", onclick: () => load() }, t("history.more"));
  let before = null;
  const load = async () => {
    const { answers } = await call("GET", `/api/history?limit=${PAGE}${before ? `&before=${before}` : ""}`);
    list.append(...answers.map(row));
    before = answers.at(-1)?.id ?? before;
    more.hidden = answers.length < PAGE;
    if (!list.children.length) list.append(h("li", { class: "quiet" }, t("history.nothing")));
  };
  container.replaceChildren(h("h1", {}, t("history.title")), list, h("p", {}, more, " ", h("a", { href: "/tasks" }, t("home.title"))));
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
    h("a", { href: `/label?answer=${answer.id}` }, h("span", { dir: "auto" }, answer.title || t("rank.empty_answer"))),
    h("p", { class: "quiet" }, `${answer.batch} · ${when} · ${marks.join(" · ")}`),
    answer.said ? h("p", {}, answer.said) : null,
    answer.overruled ? h("p", { class: "overruled" }, t("history.overruled", { name: answer.overruled.by, said: answer.overruled.said }), answer.overruled.comment ? ` “${answer.overruled.comment}”` : "") : null,
  );
}

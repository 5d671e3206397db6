// What there is to do: one card for each batch.

import { call } from "./api.js";
import { h } from "./board/dom.js";
import { at, boot, t } from "./boot.js";

export async function tasks({ element }) {
  const { batches } = await call("GET", "/api/batches");
  const cards = batches.map((batch) =>
    h("li", { class: "card batch" },
      h("h2", {}, batch.name),
      h("p", { class: "quiet" }, t(`kinds.${batch.kind}`)),
      h("p", {}, t("home.own", { own: batch.own.answers, finished: batch.finished, tasks: batch.tasks })),
      batch.own.left !== 0
        ? h("a", { class: "button primary", href: at(`/label/?batch=${encodeURIComponent(batch.name)}`), "aria-label": `${t("home.start")}: ${batch.name}` }, t(batch.own.answers ? "home.go_on" : "home.start"))
        : h("p", { class: "quiet" }, t("home.done")),
    ),
  );
  element.replaceChildren(
    h("h1", {}, t("home.title")),
    cards.length ? h("ul", { class: "batches" }, ...cards) : h("p", {}, t("home.nothing")),
    ...(cards.length || !boot.is_lead ? [] : [h("p", { class: "begin" }, h("a", { class: "button primary", href: at("/lead/new") }, t("home.make")))]),
    h("p", {}, h("a", { href: at("/label/history") }, t("history.title"))),
  );
  element.querySelector("a.button")?.focus();
}

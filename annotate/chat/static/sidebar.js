// The account's conversations: search, open, begin.

import { call } from "../api.js";
import { at, t } from "../boot.js";
import { h, nodes } from "../board/dom.js";

export class Sidebar {
  constructor(place, { open, begin, wrong }) {
    this.open = open;
    this.wrong = wrong;
    this.current = null;
    this.search = h("input", { type: "text", id: "search", "aria-label": t("chat.search"), placeholder: t("chat.search"), oninput: () => this.searchSoon() });
    this.list = h("nav", { "aria-label": t("chat.conversations") });
    place.replaceChildren(h("button", { type: "button", id: "new", class: "primary", onclick: begin }, t("chat.new"), " ", h("kbd", {}, "N")), this.search, this.list);
  }

  searchSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh().catch(this.wrong), 200);
  }

  async refresh() {
    const wanted = this.search.value;
    const found = await call("GET", `/api/chat/conversations?search=${encodeURIComponent(wanted)}`);
    if (wanted !== this.search.value) return found.conversations;
    this.list.replaceChildren(...this.rows(found.conversations));
    if (found.conversations.length === 50) this.list.append(this.moreButton(50));
    if (!found.conversations.length && wanted) this.list.append(h("p", { class: "quiet" }, t("chat.none_found")));
    return found.conversations;
  }

  rows(conversations) {
    return conversations.map((one) => {
      const when = new Date(one.updated * 1000).toLocaleString(document.documentElement.lang, { dateStyle: "short", timeStyle: "short" });
      return h("a", { href: at(`/chat/${one.id}`), "data-id": one.id, "aria-current": one.id === this.current ? "page" : null, onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.open(one.id);
      } }, h("span", { class: "name", dir: "auto" }, ...(one.title.length ? nodes(one.title) : [t("chat.untitled")])), h("span", { class: "quiet" }, when));
    });
  }

  moreButton(offset) {
    const more = async () => {
      const found = await call("GET", `/api/chat/conversations?offset=${offset}&search=${encodeURIComponent(this.search.value)}`);
      button.replaceWith(...this.rows(found.conversations), ...(found.conversations.length === 50 ? [this.moreButton(offset + 50)] : []));
    };
    const button = h("button", { type: "button", class: "plain", onclick: () => more().catch(this.wrong) }, t("chat.more"));
    return button;
  }

  mark(id) {
    this.current = id;
    for (const link of this.list.querySelectorAll("a")) {
      if (Number(link.dataset.id) === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
}

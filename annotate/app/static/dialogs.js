// Guidelines and keys, each one key away; Escape, the same key or Enter closes.

import { call } from "./api.js";
import { own, t } from "./boot.js";
import { textBody } from "./board/card.js";
import { h } from "./board/dom.js";
import { keys } from "./keys.js";

function open(title, key, ...content) {
  if (document.querySelector("dialog[open]")) return;
  const close = h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, t("help.close"));
  const dialog = h("dialog", { "aria-label": title, onclose: () => dialog.remove() }, h("h2", {}, title), h("div", { class: "dialog-body" }, ...content), h("p", { class: "actions" }, close));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === key) {
      event.preventDefault();
      dialog.close();
    }
  });
  (document.querySelector("body > .rlhf") ?? document.body).append(dialog);
  dialog.showModal();
  close.focus();
}

export function help() {
  open(t("help.title"), "?", keys.table());
}

export async function guidelines(batch) {
  const found = await call("GET", `/api/guidelines?batch=${encodeURIComponent(batch)}`);
  showGuidelines(batch, found);
}

/** A task's guidelines where this browser has not shown them yet, or not in this wording; null otherwise. */
export async function unseenGuidelines({ batch, guidelines: version }) {
  if (!version || localStorage.getItem(key(batch)) === version) return null;
  return call("GET", `/api/guidelines?batch=${encodeURIComponent(batch)}`).catch(() => null);
}

export function showGuidelines(batch, { text, version }) {
  localStorage.setItem(key(batch), version);
  open(t("guidelines.title"), "g", text.chars ? textBody(text) : h("p", {}, t("guidelines.none")));
}

const key = (batch) => own("guidelines") + batch;

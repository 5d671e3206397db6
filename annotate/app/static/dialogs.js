// Guidelines and keys, each one key away; Escape, the same key or Enter closes.

import { call } from "./api.js";
import { boot, t } from "./boot.js";
import { textBody } from "./card.js";
import { h } from "./dom.js";
import { keyTable } from "./keys.js";

function open(title, key, ...content) {
  const back = document.activeElement;
  const close = h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, t("help.close"));
  const dialog = h("dialog", { "aria-label": title, onclose: () => { dialog.remove(); back?.focus?.(); } }, h("h2", {}, title), h("div", { class: "dialog-body" }, ...content), h("p", { class: "actions" }, close));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === key) {
      event.preventDefault();
      dialog.close();
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
}

export function help() {
  open(t("help.title"), "?", keyTable());
}

export async function guidelines(batch) {
  const found = await call("GET", `/api/guidelines?batch=${encodeURIComponent(batch)}`);
  remember(batch, found.version);
  open(t("guidelines.title"), "g", found.text.chars ? textBody(found.text) : h("p", {}, t("guidelines.none")));
}

/** Open a batch's guidelines where this browser has not shown them yet, or not in this wording. */
export async function guidelinesOnce(batch) {
  const found = await call("GET", `/api/guidelines?batch=${encodeURIComponent(batch)}`).catch(() => null);
  if (!found?.text.chars || localStorage.getItem(key(batch)) === found.version) return;
  if (document.querySelector("dialog[open]")) return;
  remember(batch, found.version);
  open(t("guidelines.title"), "g", textBody(found.text));
}

const key = (batch) => `rlhf-guidelines:${boot.user}:${batch}`;
const remember = (batch, version) => localStorage.setItem(key(batch), version);

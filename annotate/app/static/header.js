// What the header of every page does: theme, language, keys, the menu.

import { call } from "./api.js";
import { help } from "./dialogs.js";
import { find } from "./board/dom.js";

function theme(toggle = false) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = localStorage.getItem("rlhf-theme") ?? (dark ? "dark" : "light");
  const now = toggle ? (chosen === "dark" ? "light" : "dark") : chosen;
  if (toggle) localStorage.setItem("rlhf-theme", now);
  document.documentElement.dataset.theme = now;
}

export function header() {
  theme();
  document.addEventListener("click", (event) => {
    const menu = find(".menu[open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });
  find("#theme").addEventListener("click", () => theme(true));
  find("#keys")?.addEventListener("click", help);
  find("#language").addEventListener("change", async (event) => {
    await call("PUT", "/api/language", { language: event.target.value });
    location.reload();
  });
}

/** Gradio follows the system's theme; here the reader's choice counts. */
export function followTheme() {
  const { body, documentElement: root } = document;
  const agree = () => { if (body.classList.contains("dark") !== (root.dataset.theme === "dark")) body.classList.toggle("dark"); };
  new MutationObserver(agree).observe(body, { attributeFilter: ["class"] });
  new MutationObserver(agree).observe(root, { attributeFilter: ["data-theme"] });
  agree();
}

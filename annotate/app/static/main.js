// Which page this is, and what its header does.

import { call } from "./api.js";
import { boot, t } from "./boot.js";
import { adjudicate } from "./adjudicate.js";
import { guidelines, help } from "./dialogs.js";
import { find } from "./dom.js";
import { history } from "./history.js";
import { home } from "./home.js";
import { say } from "./status.js";
import { Work, layout } from "./work.js";

const main = find("#main");
const query = new URLSearchParams(location.search);

function theme(toggle = false) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = localStorage.getItem("rlhf-theme") ?? (dark ? "dark" : "light");
  const now = toggle ? (chosen === "dark" ? "light" : "dark") : chosen;
  if (toggle) localStorage.setItem("rlhf-theme", now);
  document.documentElement.dataset.theme = now;
}

async function show() {
  theme();
  layout();
  document.addEventListener("click", (event) => {
    const menu = find(".menu[open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });
  find("#theme").addEventListener("click", () => theme(true));
  find("#keys")?.addEventListener("click", help);
  find("#guidelines")?.addEventListener("click", () => work && guidelines(work.batch));
  find("#language").addEventListener("change", async (event) => {
    await call("PUT", "/api/language", { language: event.target.value });
    location.reload();
  });
  let work = null;
  if (boot.page === "home") await home(main);
  else if (boot.page === "history") await history(main);
  else if (boot.page === "adjudicate") await adjudicate(main, query.get("batch"));
  else {
    work = new Work(main, query.get("batch"));
    await work.begin(query.get("answer"));
  }
}

show().catch((error) => say(error.status === 401 ? t("error.signed_out") : t("error.refused", { reason: error.message })));

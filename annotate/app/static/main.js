// Which page this is.

import { boot, t } from "./boot.js";
import { adjudicate } from "./adjudicate.js";
import { guidelines } from "./dialogs.js";
import { find } from "./dom.js";
import { header } from "./header.js";
import { history } from "./history.js";
import { home } from "./home.js";
import { say } from "./status.js";
import { Work, layout } from "./work.js";

const main = find("#main");
const query = new URLSearchParams(location.search);

async function show() {
  header();
  layout();
  find("#guidelines")?.addEventListener("click", () => guidelines(work?.batch ?? query.get("batch")));
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

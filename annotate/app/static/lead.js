// A lead's pages come filled from the server. Figures that are still being counted are asked for again.

import { t } from "./boot.js";
import { find } from "./board/dom.js";
import { header } from "./header.js";
import { say } from "./status.js";

const ASK_AGAIN_MS = 1000;
const PLACES = ["#as-of", "#figures"];

header();
if (find("#figures[data-coming]")) setTimeout(renew, ASK_AGAIN_MS);

/** Put the newer figures where the older ones are; what the reader has unfolded and focused stays so. */
async function renew() {
  const page = await newer();
  if (page && !find("#figures[data-coming]", page)) {
    const open = [...document.querySelectorAll("#figures details[open]")].map((details) => details.id);
    const focused = document.activeElement.id;
    for (const place of PLACES) find(place).replaceChildren(...find(place, page).childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    return;
  }
  setTimeout(renew, ASK_AGAIN_MS);
}

/** This page as the server has it now, or null where none came; says why. */
async function newer() {
  const response = await fetch(location.href, { credentials: "same-origin" }).catch(() => null);
  if (response?.redirected) say(t("error.signed_out"));
  else say(response?.ok ? null : t("error.unreachable"));
  if (!response?.ok || response.redirected) return null;
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

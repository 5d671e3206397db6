// What the page has to say about itself: a line that stays while something is wrong, and a short note.

import { h } from "./board/dom.js";
import { at, t } from "./boot.js";

/** Show a problem until say(null); link: {href, text}. */
export function say(text, link = null) {
  const place = document.getElementById("problem");
  place.hidden = text === null;
  place.replaceChildren(text ?? "", link ? h("a", { href: link.href }, " ", link.text) : "");
}

/** Say what is wrong with a request that is sent again by itself, and what becomes of the work; null: nothing any more. */
export function report(error) {
  if (error === null) return say(null);
  if (!error.passing) return told(error);
  return say(error.status === 0 ? t("error.unreachable") : t("error.cannot_write", { reason: error.message }));
}

/** Say what is wrong with a request that nobody sends again. */
export function told(error) {
  if (error.status === 401) return say(t("error.signed_out"), { href: at(`/login?next=${encodeURIComponent(location.pathname + location.search)}`), text: t("login.submit") });
  return say(whatFailed(error));
}

/** A request's failure in the page's words. */
export const whatFailed = (error) => (error.status === 0 ? t("error.no_answer") : t("error.refused", { reason: error.message }));

let timer = null;

export function toast(text) {
  const place = document.getElementById("toast");
  clearTimeout(timer);
  place.textContent = text;
  place.classList.add("shown");
  timer = setTimeout(() => place.classList.remove("shown"), 4000);
}

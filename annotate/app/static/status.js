// What the page has to say about itself: a line that stays while something is wrong, and a short note.

import { h } from "./board/dom.js";

/** Show a problem until say(null); link: {href, text}. */
export function say(text, link = null) {
  const place = document.getElementById("problem");
  place.hidden = text === null;
  place.replaceChildren(text ?? "", link ? h("a", { href: link.href }, " ", link.text) : "");
}

let timer = null;

export function toast(text) {
  const place = document.getElementById("toast");
  clearTimeout(timer);
  place.textContent = text;
  place.classList.add("shown");
  timer = setTimeout(() => place.classList.remove("shown"), 4000);
}

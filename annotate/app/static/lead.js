// What fills the parts of a lead's pages.

import { find } from "./board/dom.js";
import { guidelines } from "./dialogs.js";
import { followTheme, header } from "./header.js";
import { layout } from "./layout.js";
import { offer } from "./parts.js";
import { review } from "./review.js";
import { tree } from "./tree.js";

header();
followTheme();
layout();
find("#guidelines")?.addEventListener("click", () => guidelines(new URLSearchParams(location.search).get("batch")));

offer({ tree, address, calendars, review });

/** The page's address says what is chosen on it, so that it can be kept and sent to others. */
function address({ state, watch }) {
  watch(() => history.replaceState(null, "", state.value ? `?${state.value}` : location.pathname));
}

/** Fields for days get the browser's calendar: the one of Gradio has a button without a name. */
function calendars() {
  const set = () => document.querySelectorAll('.day input:not([type="date"])').forEach((field) => { field.type = "date"; });
  new MutationObserver(set).observe(document.body, { childList: true, subtree: true }); // a field may come later than this
  set();
}

// What the server put into the page: who is signed in, the catalogue of texts, the CSRF token.

import { speak } from "./board/words.js";

export { t } from "./board/words.js";

export const boot = JSON.parse(document.getElementById("boot").textContent);

/** The address of a path of ours, which may stand below a prefix of the server's. */
export const at = (path) => boot.root + path;

/** What this browser keeps under a name for this app, label store and account, and no other on the same host. */
export const own = (name) => `rlhf-${name}:${JSON.stringify([boot.root, boot.store, boot.user])}:`;

speak(boot.texts);

// What the server put into the page: who is signed in, the catalogue of texts, the CSRF token.

import { speak } from "./board/words.js";

export { t } from "./board/words.js";

export const boot = JSON.parse(document.getElementById("boot").textContent);

speak(boot.texts);

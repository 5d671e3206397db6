// The keys of the whole page.

import { Keys } from "./board/keys.js";

export const keys = new Keys(document);

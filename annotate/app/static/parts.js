// What fills the parts of a Gradio page. Gradio places them; `rlhfParts` is where they find what they hold.

import { t } from "./boot.js";
import { say } from "./status.js";

const failed = (error) => say(error.status === 401 ? t("error.signed_out") : t("error.refused", { reason: error.message }));

/** parts: by name, each a function of the place that it fills: {element, state, watch(run)}. */
export function offer(parts) {
  const safely = ([name, show]) => [name, (place) => Promise.resolve(show(place)).catch(failed)];
  globalThis.rlhfParts = Object.fromEntries(Object.entries(parts).map(safely));
}

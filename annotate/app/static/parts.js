// What fills the parts of a Gradio page. Gradio places them; `rlhfParts` is where they find what they hold.

import { told } from "./status.js";

/** parts: by name, each a function of the place that it fills: {element, state, watch(run)}. */
export function offer(parts) {
  const safely = ([name, show]) => [name, (place) => Promise.resolve(show(place)).catch(told)];
  globalThis.rlhfParts = Object.fromEntries(Object.entries(parts).map(safely));
}

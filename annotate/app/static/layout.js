// Answers side by side or below each other, texts formatted or as they are.

/** Side by side or below each other, as this browser remembers it; toggle: the other way from now on. */
export function layout(toggle = false) {
  const stacked = (localStorage.getItem("rlhf-layout") === "stacked") !== toggle;
  localStorage.setItem("rlhf-layout", stacked ? "stacked" : "beside");
  document.body.classList.toggle("stacked", stacked);
}

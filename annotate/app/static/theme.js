// Before anything is drawn: the theme chosen earlier, so that a dark page does not flash white.
const chosen = localStorage.getItem("rlhf-theme");
if (chosen) document.documentElement.dataset.theme = chosen;

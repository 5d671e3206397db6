// Under the hood of an answer: how likely each token was, what else could have stood there, and what training changed.

import { call } from "../api.js";
import { t } from "../boot.js";
import { h } from "../board/dom.js";

const percent = (logprob) => {
  const value = 100 * Math.exp(logprob);
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toPrecision(1)} %`;
};
const shown = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");

/** Ten steps of colour: 0 impossible … 9 certain. */
const byProbability = (token) => `p${Math.min(9, Math.floor(10 * Math.exp(token.logprob)))}`;

/** -3 … 3: each step is a factor of two to four against the reference. */
function byChange(token) {
  if (token.ref_logprob === null) return "c0";
  const change = token.logprob - token.ref_logprob;
  const size = Math.abs(change) < 0.2 ? 0 : Math.abs(change) < 0.7 ? 1 : Math.abs(change) < 2 ? 2 : 3;
  return change < 0 ? `less${size}` : `more${size}`;
}

export async function hood(path) {
  const found = await call("GET", path);
  let colour = byProbability;
  const detail = h("div", { class: "detail", role: "status", "aria-live": "polite" }, h("p", { class: "quiet" }, t("hood.hint")));
  const spans = found.tokens.map((token, i) => h("span", { class: `token ${colour(token)}`, tabindex: i ? "-1" : "0", role: "button",
    "aria-label": `${token.text}, ${percent(token.logprob)}`, onpointerenter: () => show(i), onfocus: () => show(i), onclick: () => show(i) }, token.text === "\n" ? "⏎\n" : token.text));
  function show(i) {
    for (const span of spans) span.classList.toggle("current", span === spans[i]);
    detail.replaceChildren(...about(found.tokens[i], found.reference));
  }
  const text = h("div", { class: "tokens", role: "group", "aria-label": t("hood.tokens"), onkeydown: (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = spans[spans.indexOf(event.target) + by];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    event.preventDefault();
  } }, ...spans);
  const legend = h("p", { class: "legend quiet" });
  function paint(choice, low, high, classes) {
    colour = choice;
    spans.forEach((span, i) => { span.className = `token ${colour(found.tokens[i])}`; });
    legend.replaceChildren(t(low), " ", ...classes.map((name) => h("span", { class: `token ${name}` }, " ")), " ", t(high));
  }
  const choices = [["by_probability", () => paint(byProbability, "hood.unlikely", "hood.likely", ["p0", "p2", "p4", "p6", "p8"])]];
  if (found.reference) choices.push(["by_change", () => paint(byChange, "hood.less", "hood.more", ["less3", "less2", "less1", "more1", "more2", "more3"])]);
  choices[0][1]();
  const name = `colour-${Math.random()}`;
  return h("section", { class: "hood", "aria-label": t("chat.hood") },
    facts(found),
    h("div", { class: "colour", role: "radiogroup", "aria-label": t("hood.colour") }, h("span", { class: "quiet" }, t("hood.colour")), ...choices.map(([key, run], i) =>
      h("label", {}, h("input", { type: "radio", name, checked: i === 0, onchange: run }), " ", t(`hood.${key}`))), legend),
    text, detail);
}

function facts(found) {
  const rows = [];
  if (found.reward !== null) rows.push([t("hood.reward"), found.reward.toFixed(2), found.reward_model]);
  if (found.reference) {
    const sum = (of) => `${found.tokens.reduce((total, token) => total + of(token), 0).toFixed(2)} ${t("hood.kl_unit")}`;
    rows.push([t("hood.kl", { reference: found.reference }), sum((token) => token.kl), t("hood.kl_help")]);
    rows.push([t("hood.ratio"), sum((token) => token.logprob - token.ref_logprob), t("hood.ratio_help")]);
  }
  rows.push([t("hood.tokens"), String(found.tokens.length), found.reference ? null : t("hood.no_reference")]);
  return h("dl", { class: "facts" }, ...rows.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value), note ? h("dd", { class: "quiet" }, note) : null)));
}

function about(token, reference) {
  const best = Math.max(...token.alternatives.map(([, logprob]) => logprob));
  const rows = token.alternatives.map(([text, logprob]) => h("tr", { class: text === token.text ? "chosen" : null },
    h("td", {}, h("code", {}, shown(text))), h("td", {}, h("meter", { min: 0, max: 1, value: String(Math.exp(logprob - best)) })), h("td", {}, percent(logprob))));
  const lines = [t("hood.probability", { percent: percent(token.logprob) })];
  if (token.ref_logprob !== null) {
    const times = Math.exp(token.logprob - token.ref_logprob);
    lines.push(t("hood.reference_probability", { percent: percent(token.ref_logprob) }), t("hood.change", { times: times >= 10 ? times.toFixed(0) : times.toPrecision(2) }), t("hood.kl_here", { nats: token.kl.toFixed(3) }));
  }
  return [h("p", {}, h("code", {}, shown(token.text)), " ", lines.join(" · ")), h("table", { class: "alternatives" }, h("caption", { class: "quiet" }, t("hood.alternatives")), h("tbody", {}, ...rows))];
}

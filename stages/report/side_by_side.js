"use strict";
// Every text arrives by textContent: what stands in an answer is shown and never read as markup.
(() => {
  const rows = JSON.parse(document.getElementById("example-data").textContent);
  const root = document.getElementById("examples");
  if (!rows.length) return;
  const names = Object.keys(rows[0].answers);
  const shown = new Set(names.length > 4 ? [names[0], ...names.slice(-3)] : names);
  const make = (tag, text, parent, properties = {}) => {
    const element = Object.assign(document.createElement(tag), properties);
    if (text !== null) element.textContent = text;
    parent.append(element);
    return element;
  };
  const choice = (label, options, parent) => {
    const box = make("label", label + " ", parent);
    const select = make("select", null, box);
    for (const [value, text] of options) make("option", text, select, { value });
    return select;
  };

  const bar = make("div", null, root, { className: "controls" });
  const search = make("input", null, make("label", "Find ", bar), { type: "search", placeholder: "in prompts and answers" });
  const pairs = names.map((name) => [name, name]);
  const better = choice("Show", [["all", "all prompts"], ["won", "where the first scores higher"], ["lost", "where it scores lower"], ["cut", "where it did not end"]], bar);
  const first = choice("first", pairs, bar);
  const second = choice("against", pairs, bar);
  const order = choice("Sort by", [["given", "order of the prompts"], ["gap", "score difference, largest first"], ["loss", "score difference, smallest first"], ["score", "the first's score"], ["long", "the first's length"]], bar);
  first.value = names[names.length - 1];
  second.value = names[Math.max(0, names.length - 2)];
  const columns = make("div", null, bar, { className: "columns" });
  for (const name of names) {
    const label = make("label", null, columns);
    const box = make("input", null, label, { type: "checkbox", checked: shown.has(name) });
    label.append(" " + name);
    box.addEventListener("change", () => {
      if (box.checked) shown.add(name); else shown.delete(name);
      show();
    });
  }
  const count = make("p", "", root, { className: "note" });
  count.setAttribute("aria-live", "polite");
  const list = make("div", null, root);

  // An answer that nobody judged has no score: no difference either, and such a prompt comes last.
  const score = (row) => row.answers[first.value].score;
  const gap = (row) => (score(row) === null || row.answers[second.value].score === null ? null : score(row) - row.answers[second.value].score);
  const highest = (number, sign = 1) => (a, b) => {
    const [one, other] = [number(a), number(b)];
    return one === null || other === null ? (one === null) - (other === null) : sign * (other - one);
  };
  const sorts = {
    given: () => 0,
    gap: highest(gap),
    loss: highest(gap, -1),
    score: highest(score),
    long: (a, b) => b.answers[first.value].text.length - a.answers[first.value].text.length,
  };
  const kept = {
    all: () => true,
    won: (row) => gap(row) > 0,
    lost: (row) => gap(row) < 0,
    cut: (row) => !row.answers[first.value].ended,
  };
  const holds = (row, wanted) =>
    !wanted || [row.prompt, ...Object.values(row.answers).map((a) => a.text)].some((text) => text.toLowerCase().includes(wanted));

  function show() {
    const wanted = search.value.trim().toLowerCase();
    const found = rows.filter((row) => kept[better.value](row) && holds(row, wanted)).sort(sorts[order.value]);
    count.textContent = `${found.length} of ${rows.length} prompts`;
    list.replaceChildren();
    for (const row of found) {
      const card = make("section", null, list, { className: "example" });
      make("p", row.prompt, card, { className: "prompt" });
      const answers = make("div", null, card, { className: "answers" });
      for (const name of names.filter((name) => shown.has(name))) {
        const answer = row.answers[name];
        const cell = make("div", null, answers, { className: "answer" });
        const says = answer.score === null ? name : `${name} · ${answer.score}`;
        make("small", answer.ended ? says : `${says} · did not end`, cell);
        make("p", answer.text, cell);
      }
    }
  }
  for (const control of [search, better, first, second, order]) control.addEventListener("input", show);
  show();
})();

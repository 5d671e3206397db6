"""The figures, of all batches or one, between two days; those that were counted last, and newer ones as they come."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from annotate.app.components.page_part import PagePart
from annotate.app.lead.chosen import Chosen
from annotate.app.lead.desk import FREE, Desk
from annotate.app.lead.trees import Tree, table, wrong
from annotate.app.rendering import Node
from annotate.app.texts import Texts
from annotate.figures.charts import CHARTS
from annotate.figures.computed import Computed, Result
from annotate.figures.tables import Table, shown, tables

ROWS_SHOWN = 200
ASK_AGAIN_S = 1.0
# Figures of one row, which are said in sentences: the text of each and the number without which it says nothing.
SENTENCES = {
    "agreement": (("agreement_is", "agreement"), ("alpha_is", "alpha")),
    "position": (("position_is", "earlier_won"),),
}
WIDE = frozenset({"labelers"})  # shown over the whole width, and unfolded


class DashboardPage:
    """Handlers give what the page shows: when the figures were counted, the figures, the address, whether to ask again."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.lead = desk.lead

    def build(self, blocks: gr.Blocks) -> None:
        self.desk.heading("dashboard")
        with gr.Row(elem_classes="filters"):
            batch = self.desk.batch_choice("dashboard-batch", every=True)
            since, until = (
                gr.Textbox(
                    label=self.lead[name], elem_id=f"dashboard-{name}", elem_classes="day", max_lines=1
                )
                for name in ("since", "until")
            )
            people = gr.Checkbox(label=self.lead["people_only"], elem_id="dashboard-people")
        PagePart("calendars")
        filters: list[Any] = [batch, since, until, people]
        again = gr.Timer(ASK_AGAIN_S, active=False)
        shows = [
            PagePart("tree", elem_id="as-of"),
            PagePart("tree", elem_id="figures"),
            PagePart("address"),
            again,
        ]
        blocks.load(self.opened, None, [*filters, *shows], **FREE)
        chosen = [field.input for field in filters]
        gr.on(chosen, self.show, filters, shows, trigger_mode="always_last", **FREE)
        again.tick(self.newer, filters, shows, **FREE)

    def opened(self, request: gr.Request) -> list[Any]:
        """The filters that the page's address names, and the figures for them."""
        self.desk.account(request)
        query = request.query_params
        batch, since, until = (query.get(name) or "" for name in ("batch", "since", "until"))
        people = query.get("people_only") == "true"
        return [
            self.desk.choices(batch, every=True), since, until, people,
            *self.show(batch, since, until, people, request),
        ]  # fmt: skip

    def show(self, batch: str | None, since: str, until: str, people: bool, request: gr.Request) -> list[Any]:
        self.desk.account(request)
        chosen = Chosen(batch or "", (since or "").strip(), (until or "").strip(), people)
        kinds = self.desk.kinds()
        query = urlencode(chosen.query())
        if problem := chosen.problem(kinds, self.lead):
            return [wrong(problem), [], query, gr.Timer(active=False)]
        found = self._counted(chosen)
        review = self._review(chosen.batch) if chosen.batch and kinds[chosen.batch] != "demonstrate" else []
        figures = [self._figure(name, one, query) for name, one in (found.value or {}).items()]
        grid = ["div", {"class": "figure-grid"}, *figures]
        return [[*self._as_of(found), *review], [grid], query, gr.Timer(active=not found.current)]

    def newer(
        self, batch: str | None, since: str, until: str, people: bool, request: gr.Request
    ) -> list[Any]:
        """Nothing new while newer figures are on their way."""
        self.desk.account(request)
        shown = self.show(batch, since, until, people, request)
        return [gr.skip()] * 4 if shown[-1].active else shown

    def _counted(self, chosen: Chosen) -> Result:
        computed: Computed = self.desk.shared.computed
        answers = chosen.choice()
        return computed.soon(answers, lambda: tables(self.desk.database, answers))

    def _as_of(self, found: Result) -> Tree:
        if found.value is None:
            return [["p", {"class": "quiet", "role": "status"}, self.lead["computing"], " ", ["progress"]]]
        at = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        coming = "" if found.current else f" {self.lead['newer_coming']}"
        return [["p", {"class": "quiet", "role": "status"}, self.lead["as_of"].format(time=at) + coming]]

    def _review(self, batch: str) -> Tree:
        address = self.desk.at(f"/lead/review?{urlencode({'batch': batch})}")
        return [["p", ["a", {"class": "button", "href": address}, self.lead["review"]]]]

    def _figure(self, name: str, found: Table, query: str) -> Node:
        """Title, the way to the CSV, why it is undefined or what it says, a picture, rows."""
        title = self.desk.words["figures"][name]
        csv = {"class": "csv", "id": f"csv-{name}", "download": "", "aria-label": f"CSV: {title}"}
        csv["href"] = self.desk.at(f"/api/lead/tables/{name}.csv?{query}")
        parts: Tree = [["header", ["h2", {"id": f"title-{name}"}, title], ["a", csv, "CSV"]]]
        if found.note or not found.rows:
            parts.append(["p", {"class": "quiet"}, found.note or self.lead["nothing"]])
        parts += [["p", {"class": "said"}, said] for said in sentences(name, found, self.desk.words)]
        if found.rows and name in CHARTS:
            address = self.desk.at(f"/api/lead/plots/{name}.svg?{query}")
            parts.append(["img", {"alt": title, "src": address}])
        if found.rows and name not in SENTENCES:
            parts += self._rows(name, found)
        section = {"class": "figure wide" if name in WIDE else "figure", "aria-labelledby": f"title-{name}"}
        return ["section", section, *parts]

    def _rows(self, name: str, found: Table) -> Tree:
        total = len(found.rows)
        columns = [self.desk.words["columns"][column] for column in found.columns]
        rows = table(columns, shown(replace(found, rows=found.rows[:ROWS_SHOWN])))
        if name not in WIDE:
            fold = ["summary", {"id": f"fold-{name}"}, self.lead["rows"].format(count=total)]
            rows = ["details", {"id": f"rows-{name}"}, fold, rows]
        if total <= ROWS_SHOWN:
            return [rows]
        return [
            rows,
            ["p", {"class": "quiet"}, self.lead["rows_first"].format(shown=ROWS_SHOWN, count=total)],
        ]


def sentences(name: str, found: Table, words: Texts) -> list[str]:
    """One row of numbers in words, those left out that are undefined."""
    if not found.rows or name not in SENTENCES:
        return []
    said: Mapping[str, str] = words["figures"]
    values = dict(zip(found.columns, shown(found)[0], strict=True))
    return [said[text].format(**values) for text, number in SENTENCES[name] if values[number] != "–"]

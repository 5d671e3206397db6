"""Every batch with how far it is, and the way to what can be done with it."""

from urllib.parse import urlencode

import gradio as gr

from annotate.app.components.page_part import PagePart
from annotate.app.lead.desk import FREE, Desk
from annotate.app.lead.trees import Tree
from annotate.app.rendering import Node, visible
from annotate.work.batches import BatchOverview
from annotate.work.live import queue_counts


class BatchesPage:
    """One row for each batch. Gradio's table cannot have links beside names that stay texts."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.lead = desk.lead

    def build(self, blocks: gr.Blocks) -> None:
        self.desk.heading("batches")
        listed = PagePart("tree")
        blocks.load(self.listed, None, listed, **FREE)

    def listed(self, request: gr.Request) -> Tree:
        self.desk.account(request)
        batches = self.desk.batches()
        if not batches:
            new = ["a", {"href": self.desk.at("/lead/new")}, self.lead["new_batch"]]
            return [["p", {"id": "batches"}, self.lead["nothing"], " ", new]]
        names = (self.lead[name] for name in ("name", "state", "finished", "answers"))
        head = ["thead", ["tr", *(["th", {"scope": "col"}, name] for name in names), ["td"]]]
        body = ["tbody", *(["tr", *self._cells(row)] for row in batches)]
        return [["table", {"class": "list", "id": "batches"}, head, body]]

    def _cells(self, row: BatchOverview) -> list[Node]:
        lead = self.lead
        kind = self.desk.words["kinds"].get(row.kind, row.kind)
        done = {"max": max(row.tasks, 1), "value": row.finished, "aria-label": lead["finished"]}
        return [
            ["th", {"scope": "row"}, ["bdi", *visible(row.name)], " ", ["span", {"class": "quiet"}, kind]],
            ["td", {"data-label": lead["state"]}, lead["open" if row.open else "closed"], *self._coming(row)],
            ["td", {"data-label": lead["finished"]}, ["progress", done], f" {row.finished} / {row.tasks}"],
            ["td", {"data-label": lead["answers"]}, f"{row.answers} / {row.wanted}"],
            ["td", {"class": "links"}, *self._links(row)],
        ]

    def _coming(self, row: BatchOverview) -> list[Node]:
        """Prompts of a live batch that are still to come, and those given up."""
        if not row.live:
            return []
        found = queue_counts(self.desk.database, row.name)
        coming = found["waiting"] + found["wanted"] + found["claimed"]
        return [
            ["br"],
            ["span", {"class": "quiet"}, self.lead["live"].format(coming=coming, failed=found["failed"])],
        ]

    def _links(self, row: BatchOverview) -> list[Node]:
        query = urlencode({"batch": row.name})
        pages = ("dashboard", *(("review",) if row.kind != "demonstrate" else ()), "settings")
        return [["a", {"href": self.desk.at(f"/lead/{page}?{query}")}, self.lead[page]] for page in pages]

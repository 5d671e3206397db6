"""The lead's pages, by Gradio: batches, a new batch, figures, export, people.

Gradio's functions can be called without the page, so each one here finds out for itself who is asking: from the
name that the log-in check of this very request gave, and the role that the database has now. Nothing is kept in
gr.State, which any browser can address.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from annotate.accounts import Account, account_named, accounts, add_token, tokens
from annotate.app.computed import Computed
from annotate.app.lead_api import choice
from annotate.app.lead_html import batches_html, escaped, figures_html, table_html
from annotate.app.new_batch import Sampler, UploadIn, make_batch
from annotate.app.tables import tables
from annotate.app.texts import texts
from annotate.batches import batch_settings, change_batch, overview
from annotate.export import FORMATS
from annotate.labels import LabelStore
from annotate.live import queue
from rlhf.errors import RLHFError

ASKS = ("ratings", "flags", "comment", "none_acceptable", "strength")
ASK_AGAIN_S = 1.0
# A handler of the database may run beside any other; none of them is offered as a public endpoint.
FREE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "queue": False}


class LeadPages:
    """The pages in one language over a store. Public methods are event handlers; each authorises by itself."""

    def __init__(self, store: LabelStore, language: str, computed: Computed, sampler: Sampler | None) -> None:
        self.store = store
        self.computed = computed
        self.sampler = sampler
        self.database = store.database
        self.words = texts(language)
        self.lead = self.words["lead"]

    def blocks(self) -> gr.Blocks:
        """All tabs."""
        lead = self.lead
        with gr.Blocks(title=lead["title"], analytics_enabled=False) as blocks:
            gr.HTML(
                f'<p class="top"><strong>{lead["title"]}</strong> <a href="/tasks">{lead["labeling"]}</a></p>'
            )
            with gr.Tab(lead["batches"]):
                self._batches_tab(blocks)
            with gr.Tab(lead["new_batch"]):
                self._new_tab(blocks)
            with gr.Tab(lead["dashboard"]):
                self._dashboard_tab(blocks)
            with gr.Tab(lead["export"]):
                self._export_tab(blocks)
            with gr.Tab(lead["people"]):
                self._people_tab(blocks)
        return blocks

    def _account(self, request: gr.Request) -> Account:
        """The lead behind an event; refuses everybody else."""
        account = account_named(self.database, request.username or "")
        if account is None or not account.active or not account.at_least("lead"):
            raise gr.Error("403")
        return account

    # Batches

    def _batches_tab(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        listed = gr.HTML(elem_id="batches")
        refresh = gr.Button(lead["refresh"], size="sm")
        with gr.Accordion(lead["change"], open=False):
            name = gr.Dropdown([], label=lead["batch"], elem_id="change-batch")
            is_open = gr.Checkbox(label=lead["open"])
            guidelines = gr.Textbox(label=lead["guidelines"], lines=6)
            with gr.Row():
                overlap = gr.Number(label=lead["overlap"], precision=0, minimum=1)
                quota = gr.Number(label=lead["quota"], precision=0, minimum=0)
                order = gr.Radio(self._orders(), label=lead["order"])
            save = gr.Button(lead["save"], variant="primary")
        fields = [is_open, guidelines, overlap, quota, order]
        blocks.load(self.list_batches, None, [listed, name], **FREE)
        refresh.click(self.list_batches, None, [listed, name], **FREE)
        name.change(self.show_settings, name, fields, **FREE)
        save.click(self.save_settings, [name, *fields], [listed, name], **FREE)

    def _orders(self) -> list[tuple[str, str]]:
        return [(self.lead["random"], "random"), (self.lead["priority"], "priority")]

    def list_batches(self, request: gr.Request) -> tuple[str, Any]:
        self._account(request)
        rows = overview(self.database)
        queues = {row.name: queue(self.database, row.name) for row in rows if row.live}
        return batches_html(rows, queues, self.words), gr.Dropdown(choices=[row.name for row in rows])

    def show_settings(self, name: str | None, request: gr.Request) -> list[Any]:
        self._account(request)
        if not name:
            return [gr.skip()] * 5
        with told():
            found = batch_settings(self.database, name)
        return [found.open, found.guidelines, found.overlap, found.quota, found.task_order]

    def save_settings(
        self, name: str | None, is_open: bool, guidelines: str, overlap: int, quota: int, order: str, request: gr.Request
    ) -> tuple[str, Any]:  # fmt: skip
        self._account(request)
        changes = {"open": is_open, "guidelines": guidelines, "overlap": int(overlap), "quota": int(quota)}
        with told():
            change_batch(self.database, name or "", **changes, task_order=order)
        gr.Info(self.lead["saved"])
        return self.list_batches(request)

    # A new batch

    def _new_tab(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        with gr.Row():
            name = gr.Textbox(label=lead["name"], max_length=200, elem_id="new-name")
            kinds = [(self.words["kinds"][kind], kind) for kind in ("rank", "compare", "demonstrate")]
            kind = gr.Radio(kinds, value="rank", label=lead["kind"])
        with gr.Row():
            file = gr.File(label=lead["file"], type="filepath", elem_id="new-file")
            gold = gr.File(label=lead["gold"], type="filepath")
        with gr.Row():
            checkpoint = gr.Dropdown(
                [(lead["from_file"], "")], value="", label=lead["sample_from"], elem_id="new-checkpoint"
            )
            k = gr.Number(4, label=lead["k"], precision=0, minimum=2, maximum=9)
        asks = gr.CheckboxGroup([(lead[ask], ask) for ask in ASKS], value=["comment"], label=lead["asks"])
        keep = gr.Checkbox(label=lead["keep_ranks"])
        with gr.Row():
            overlap = gr.Number(1, label=lead["overlap"], precision=0, minimum=1)
            quota = gr.Number(0, label=lead["quota"], precision=0, minimum=0)
            gold_every = gr.Number(10, label=lead["gold_every"], precision=0, minimum=1)
            order = gr.Radio(self._orders(), value="random", label=lead["order"])
        guidelines = gr.Textbox(label=lead["guidelines"], lines=8, max_length=200_000)
        create = gr.Button(lead["create"], variant="primary", elem_id="create")
        said = gr.HTML(elem_id="created")
        values = [
            name, kind, file, gold, checkpoint, k, asks, keep, overlap, quota, gold_every, order, guidelines,
        ]  # fmt: skip
        blocks.load(self.list_checkpoints, None, checkpoint, **FREE)
        create.click(self.create_batch, values, said, **FREE)

    def list_checkpoints(self, request: gr.Request) -> Any:
        self._account(request)
        with told():
            there = self.sampler.checkpoints() if self.sampler else []
        return gr.Dropdown(choices=[(self.lead["from_file"], ""), *((name, name) for name in there)])

    def create_batch(
        self, name: str, kind: Any, file: str | None, gold: str | None, checkpoint: str, k: int, asks: list[str],
        keep: bool, overlap: int, quota: int, gold_every: int, order: Any, guidelines: str, request: gr.Request,
    ) -> str:  # fmt: skip
        self._account(request)
        if file is None:
            raise gr.Error(self.lead["no_file"])
        with told():
            new = UploadIn(
                name=name.strip(), kind=kind, guidelines=guidelines, overlap=int(overlap), quota=int(quota),
                task_order=order, gold_every=int(gold_every), ratings="ratings" in asks, comment="comment" in asks,
                flags=["all"] if "flags" in asks else [], none_acceptable="none_acceptable" in asks,
                strength="strength" in asks, keep_ranks=keep, sample_from=checkpoint or "", k=int(k),
            )  # fmt: skip
            gold_file = Path(gold) if gold else None
            made = make_batch(self.database, new, Path(file), Path(file).name, gold_file, self.sampler)
        for upload in filter(None, (file, gold)):
            Path(upload).unlink(missing_ok=True)
        return escaped(self.lead["created"].format(name=name, tasks=made.tasks, answers=made.answers))

    # Figures

    def _dashboard_tab(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        with gr.Row():
            batch = gr.Dropdown(
                [(lead["all_batches"], "")], value="", label=lead["batch"], elem_id="figures-batch"
            )
            since = gr.Textbox(label=lead["since"])
            until = gr.Textbox(label=lead["until"])
            simulated = gr.Checkbox(True, label=lead["simulated"])
        show = gr.Button(lead["show"], variant="primary", elem_id="show-figures")
        figures = gr.HTML(elem_id="figures")
        again = gr.Timer(ASK_AGAIN_S, active=False)
        blocks.load(self.batch_names, None, batch, **FREE)
        chosen = [batch, since, until, simulated]
        show.click(self.show_figures, chosen, [figures, again], **FREE)
        again.tick(self.newer_figures, chosen, [figures, again], **FREE)

    def batch_names(self, request: gr.Request) -> Any:
        self._account(request)
        names = [row.name for row in overview(self.database)]
        return gr.Dropdown(choices=[(self.lead["all_batches"], ""), *((name, name) for name in names)])

    def show_figures(
        self, batch: str, since: str, until: str, simulated: bool, request: gr.Request
    ) -> tuple[str, Any]:
        """The figures as they were computed last, and a timer that asks for newer ones while those are computed."""
        self._account(request)
        query = self._query(batch, since, until, simulated)
        first, last = (date.fromisoformat(query[key]) if key in query else None for key in ("since", "until"))
        with told():
            chosen = choice(batch or None, first, last, [], not simulated, None, False)
            found = self.computed.soon(chosen, lambda: tables(self.database, chosen))
        return figures_html(found, query, self.words), gr.Timer(active=not found.current)

    def newer_figures(
        self, batch: str, since: str, until: str, simulated: bool, request: gr.Request
    ) -> tuple[Any, Any]:
        figures, again = self.show_figures(batch, since, until, simulated, request)
        return (gr.skip(), gr.skip()) if again.active else (figures, again)

    def _query(self, batch: str, since: str, until: str, simulated: bool) -> dict[str, Any]:
        days = {key: day.strip() for key, day in (("since", since), ("until", until)) if day and day.strip()}
        for day in days.values():
            try:
                date.fromisoformat(day)
            except ValueError:
                raise gr.Error(escaped(self.lead["bad_day"].format(day=day))) from None
        return {
            **({"batch": batch} if batch else {}),
            **days,
            **({} if simulated else {"people_only": "true"}),
        }

    # Export

    def _export_tab(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        with gr.Row():
            batch = gr.Dropdown([(lead["all_batches"], "")], value="", label=lead["batch"])
            format = gr.Radio(list(FORMATS), value="rankings", label=lead["format"])
            file = gr.Radio(["jsonl", "csv", "parquet", "zip"], value="jsonl", label=lead["file_type"])
        with gr.Row():
            since = gr.Textbox(label=lead["since"])
            until = gr.Textbox(label=lead["until"])
            agreement = gr.Textbox(label=lead["min_agreement"])
        simulated = gr.Checkbox(True, label=lead["simulated"])
        adjudicated = gr.Checkbox(label=lead["adjudicated"])
        values = [batch, format, file, since, until, agreement, simulated, adjudicated]
        make = gr.Button(lead["export"], variant="primary", elem_id="make-export")
        link = gr.HTML(elem_id="export-link")
        blocks.load(self.batch_names, None, batch, **FREE)
        make.click(self.export_link, values, link, **FREE)

    def export_link(
        self, batch: str, format: str, file: str, since: str, until: str, agreement: str, simulated: bool,
        adjudicated: bool, request: gr.Request,
    ) -> str:  # fmt: skip
        """The address of the download, which asks for the role again: Gradio's own files would not."""
        self._account(request)
        query = {"format": format, "file": file, **self._query(batch, since, until, simulated)}
        if agreement.strip():
            try:
                query["min_agreement"] = float(agreement)
            except ValueError:
                raise gr.Error(escaped(self.lead["bad_share"].format(value=agreement))) from None
        if adjudicated:
            query["adjudicated"] = "true"
        address, lead = escaped(urlencode(query)), self.lead
        return f'<p><a class="download" href="/api/lead/export?{address}" download>{lead["download"]}</a> {lead["download_hint"]}</p>'

    # People

    def _people_tab(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        people = gr.HTML()
        gr.HTML(f"<p>{lead['account_hint']}</p><h3>{lead['tokens']}</h3>")
        owned = gr.HTML()
        with gr.Row():
            label = gr.Textbox(label=lead["token_label"], max_length=200)
            make = gr.Button(lead["token_make"])
        token = gr.HTML(elem_id="token")
        blocks.load(self.list_people, None, [people, owned], **FREE)
        make.click(self.make_token, label, [token, owned], **FREE)

    def list_people(self, request: gr.Request) -> tuple[str, str]:
        account, lead = self._account(request), self.lead
        answers = {row["name"]: row["answers"] for row in self.store.labelers()}
        rows = [
            (one.name, one.role, one.origin, "✓" if one.active else "–", answers.get(one.name, 0))
            for one in accounts(self.database)
        ]
        names = ("name", "role", "origin", "active", "answers")
        return table_html([lead[name] for name in names], rows), self._tokens(account)

    def _tokens(self, account: Account) -> str:
        mine = [row for row in tokens(self.database, account.name) if not row["revoked"]]
        rows = [(row["id"], row["label"], date.fromtimestamp(row["created"])) for row in mine]
        return table_html(["#", self.lead["name"], self.words["columns"]["day"]], rows) if rows else ""

    def make_token(self, label: str, request: gr.Request) -> tuple[str, str]:
        account = self._account(request)
        with told():
            token = add_token(self.database, account.name, label or "token")
        return f"<p>{escaped(self.lead['token_once'].format(token=token))}</p>", self._tokens(account)


@contextmanager
def told() -> Iterator[None]:
    """Turns an error a user can cause into a note on the page; Gradio shows it as HTML, so it is escaped."""
    try:
        yield
    except (RLHFError, ValueError) as error:
        raise gr.Error(escaped(str(error)[:500])) from None

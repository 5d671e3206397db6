"""The lead's forms, by Gradio: a new batch, settings of one, export, people.

Gradio's functions can be called without the page, so each one here finds out for itself who is asking: from the
name that the log-in check of this very request gave, and the role that the database has now. Nothing is kept in
gr.State, which any browser can address.
"""

import html
from collections.abc import Callable
from datetime import date
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from pydantic import ValidationError

from annotate.answers.export import FORMATS
from annotate.app.lead.chosen import Chosen
from annotate.app.lead.new_batch import Sampler, UploadIn, first_problem, make_batch
from annotate.app.pages import LEAD_PATH, part
from annotate.app.texts import texts
from annotate.labels import LabelStore
from annotate.store.accounts import Account, account_named, accounts, add_token, tokens
from annotate.work.batches import KINDS, batch_settings, change_batch, overview
from rlhf.errors import LabelError, RLHFError

ALLOWS = ("may_skip", "show_progress")
ASKS = ("ratings", "flags", "comment", "none_acceptable", "strength")
# A handler of the database may run beside any other; none of them is offered as a public endpoint.
FREE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "queue": False}
# Gradio's templates read ${…} and {{…}} as code: as entities they are only characters.
_TEMPLATE = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})


def inert(page_part: str) -> str:
    """HTML of ours in which nothing is left that Gradio's templates would take for theirs."""
    return page_part.translate(_TEMPLATE)


def escaped(text: Any) -> str:
    """A text that is nothing but a text, wherever in a page it stands."""
    return inert(html.escape(str(text)))


def telling(handler: Callable[..., str]) -> Callable[..., str]:
    """A handler that gives the note below a form: where the form was filled in wrongly it says so there.

    Gradio's own notes (gr.Error, gr.Info) appear only where an event takes its queue, and with it a connection.
    """

    @wraps(handler)
    def told(*given: Any, **named: Any) -> str:
        try:
            return handler(*given, **named)
        except ValidationError as error:
            reason = first_problem(error)
        except RLHFError as error:
            reason = str(error)
        return f'<p role="alert" class="wrong">{escaped(reason[:500])}</p>'

    return told


class Forms:
    """The pages in one language over a store. Public methods are event handlers; each authorises by itself."""

    def __init__(self, store: LabelStore, language: str, sampler: Sampler | None, root: str = "") -> None:
        self.store = store
        self.language = language
        self.sampler = sampler
        self.root = root
        self.database = store.database
        self.words = texts(language)
        self.lead = self.words["lead"]

    def blocks(self) -> gr.Blocks:
        """All forms, each at an address of its own."""
        with gr.Blocks(title=self.lead["title"], analytics_enabled=False) as blocks:
            self._top("new_batch")
            self._new_form(blocks)
        forms = {"settings": self._settings_form, "export": self._export_form, "people": self._people_form}
        for name, form in forms.items():
            with blocks.route(self.lead[name], f"/{name}", show_in_navbar=False):
                self._top(name)
                form(blocks)
        return blocks

    def _top(self, name: str) -> None:
        """The way to the other pages of a lead, in place of Gradio's own."""
        gr.HTML(inert(part("lead_nav", self.language, self.root, name)), elem_id="top")
        gr.HTML(f"<h1>{escaped(self.lead[name])}</h1>")

    def _account(self, request: gr.Request) -> Account:
        """The lead behind an event; refuses everybody else."""
        account = account_named(self.database, request.username or "")
        if account is None or not account.active or not account.at_least("lead"):
            raise gr.Error("403")
        return account

    # Settings of a batch

    def _settings_form(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        name = gr.Dropdown([], label=lead["batch"], elem_id="settings-batch")
        is_open = gr.Checkbox(label=lead["open"])
        guidelines = gr.Textbox(label=lead["guidelines"], lines=12)
        with gr.Row():
            overlap = gr.Number(label=lead["overlap"], precision=0)
            quota = gr.Number(label=lead["quota"], precision=0)
            order = gr.Radio(self._orders(), label=lead["order"])
        with gr.Row():
            allows = self._allows([])
            below = gr.Number(label=lead["comment_below"], precision=0)
        save = gr.Button(lead["save"], variant="primary", elem_id="save")
        fields = [is_open, guidelines, overlap, quota, order, allows, below]
        blocks.load(self.wanted_batch, None, [name, *fields], **FREE)
        name.input(self.show_settings, name, fields, **FREE)
        said = gr.HTML(elem_id="saved")
        save.click(self.save_settings, [name, *fields], said, **FREE)

    def _allows(self, value: list[str]) -> gr.CheckboxGroup:
        words = [(self.lead[name], name) for name in ALLOWS]
        return gr.CheckboxGroup(words, value=value, label=self.lead["allows"])

    def _orders(self) -> list[tuple[str, str]]:
        return [(self.lead["random"], "random"), (self.lead["priority"], "priority")]

    def wanted_batch(self, request: gr.Request) -> list[Any]:
        """The names of all batches, and the settings of the one that the page's address names."""
        self._account(request)
        names = self._batches()
        wanted = request.query_params.get("batch")
        wanted = wanted if wanted in names else None
        return [gr.Dropdown(choices=names, value=wanted), *self.show_settings(wanted, request)]

    def show_settings(self, name: str | None, request: gr.Request) -> list[Any]:
        self._account(request)
        if not name:
            return [gr.skip()] * 7
        found = batch_settings(self.database, name)
        allowed = [ability for ability in ALLOWS if getattr(found.asks, ability)]
        return [
            found.open, found.guidelines, found.overlap, found.quota, found.task_order, allowed, found.asks.comment_below,
        ]  # fmt: skip

    @telling
    def save_settings(
        self, name: str | None, is_open: bool, guidelines: str, overlap: int, quota: int, order: str, allows: list[str],
        below: int, request: gr.Request,
    ) -> str:  # fmt: skip
        self._account(request)
        changes: dict[str, Any] = {
            "overlap": int(overlap or 0),
            "quota": int(quota or 0),
            "task_order": order,
        }
        changes |= {ability: ability in allows for ability in ALLOWS} | {"comment_below": int(below or 0)}
        change_batch(self.database, name or "", open=is_open, guidelines=guidelines, **changes)
        return self._done(self.lead["saved"])

    # A new batch

    def _new_form(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        with gr.Row():
            name = gr.Textbox(label=lead["name"], max_length=200, elem_id="new-name")
            kinds = [(self.words["kinds"][kind], kind) for kind in KINDS]
            kind = gr.Radio(kinds, value="rank", label=lead["kind"])
        with gr.Row():
            file = gr.File(label=lead["file"], type="filepath", elem_id="new-file")
            gold = gr.File(label=lead["gold"], type="filepath")
        with gr.Accordion(lead["columns"], open=False):
            with gr.Row():
                columns = gr.Textbox(
                    label=lead["map"],
                    placeholder="prompt=question,chosen=good,rejected=bad",
                    elem_id="new-map",
                )
                answers = gr.Textbox(label=lead["answer_columns"], placeholder="reply_1,reply_2")
                left = gr.Textbox(label=lead["left"])
            skip = gr.Checkbox(label=lead["skip_bad_rows"])
        with gr.Row():
            checkpoint = gr.Dropdown(
                [(lead["from_file"], "")], value="", label=lead["sample_from"], elem_id="new-checkpoint"
            )
            k = gr.Number(4, label=lead["k"], precision=0)
        asks = gr.CheckboxGroup([(lead[ask], ask) for ask in ASKS], value=["comment"], label=lead["asks"])
        keep = gr.Checkbox(label=lead["keep_ranks"])
        with gr.Row():
            overlap = gr.Number(1, label=lead["overlap"], precision=0)
            quota = gr.Number(0, label=lead["quota"], precision=0)
            gold_every = gr.Number(10, label=lead["gold_every"], precision=0)
            order = gr.Radio(self._orders(), value="random", label=lead["order"])
        with gr.Row():
            shown = gr.Radio(
                [(lead["random"], "random"), (lead["fixed"], "fixed")],
                value="random",
                label=lead["shown_order"],
            )
            allows = self._allows(list(ALLOWS))
            scale = gr.Number(7, label=lead["scale"], precision=0)
            below = gr.Number(0, label=lead["comment_below"], precision=0)
        guidelines = gr.Textbox(label=lead["guidelines"], lines=8, max_length=200_000)
        create = gr.Button(lead["create"], variant="primary", elem_id="create")
        said = gr.HTML(elem_id="created")
        values = [
            name, kind, file, gold, checkpoint, k, asks, keep, overlap, quota, gold_every, order, guidelines,
            columns, answers, left, skip, shown, allows, scale, below,
        ]  # fmt: skip
        blocks.load(self.list_checkpoints, None, checkpoint, **FREE)
        create.click(self.create_batch, values, said, **FREE)

    def list_checkpoints(self, request: gr.Request) -> Any:
        self._account(request)
        there = self.sampler.checkpoints() if self.sampler else []
        return gr.Dropdown(choices=[(self.lead["from_file"], ""), *((name, name) for name in there)])

    @telling
    def create_batch(
        self, name: str, kind: Any, file: str | None, gold: str | None, checkpoint: str, k: int, asks: list[str],
        keep: bool, overlap: int, quota: int, gold_every: int, order: Any, guidelines: str, columns: str, answers: str,
        left: str, skip: bool, shown: Any, allows: list[str], scale: int, below: int, request: gr.Request,
    ) -> str:  # fmt: skip
        self._account(request)
        if file is None:
            raise LabelError(self.lead["no_file"])
        new = UploadIn(
            name=name.strip(), kind=kind, guidelines=guidelines, overlap=int(overlap or 0), quota=int(quota or 0),
            task_order=order, gold_every=int(gold_every or 0), ratings="ratings" in asks, comment="comment" in asks,
            flags=["all"] if "flags" in asks else [], none_acceptable="none_acceptable" in asks,
            strength="strength" in asks, keep_ranks=keep, sample_from=checkpoint or "", k=int(k or 0),
            shown_order=shown, may_skip="may_skip" in allows, show_progress="show_progress" in allows,
            scale=int(scale or 0), comment_below=int(below or 0), map=columns or "", answers=answers or "", left=left or "", skip_bad_rows=skip,
        )  # fmt: skip
        gold_file = Path(gold) if gold else None
        read: list[str] = []
        made = make_batch(
            self.database, new, Path(file), Path(file).name, gold_file, self.sampler, read.append
        )
        for upload in filter(None, (file, gold)):
            Path(upload).unlink(missing_ok=True)
        said = self.lead["created"].format(name=name, tasks=made.tasks, answers=made.answers)
        return self._done(" ".join([said, *read[-1:]]))

    def _done(self, said: str) -> str:
        back = f'<a href="{self.root}{LEAD_PATH}">{escaped(self.lead["batches"])}</a>'
        return f'<p role="status">{escaped(said)} {back}</p>'

    # Export

    def batch_names(self, request: gr.Request) -> Any:
        self._account(request)
        choices = [(self.lead["all_batches"], ""), *((name, name) for name in self._batches())]
        return gr.Dropdown(choices=choices)

    def _batches(self) -> list[str]:
        return [row.name for row in overview(self.database)]

    def _export_form(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        with gr.Row():
            batch = gr.Dropdown(
                [(lead["all_batches"], "")], value="", label=lead["batch"], elem_id="export-batch"
            )
            format = gr.Radio(list(FORMATS), value="rankings", label=lead["format"])
            file = gr.Radio(["jsonl", "csv", "parquet", "zip"], value="jsonl", label=lead["file_type"])
        with gr.Row():
            since = gr.Textbox(label=lead["since"], placeholder="2026-01-31")
            until = gr.Textbox(label=lead["until"], placeholder="2026-01-31")
            agreement = gr.Textbox(label=lead["min_agreement"])
        simulated = gr.Checkbox(True, label=lead["simulated"])
        adjudicated = gr.Checkbox(label=lead["adjudicated"])
        values = [batch, format, file, since, until, agreement, simulated, adjudicated]
        make = gr.Button(lead["export"], variant="primary", elem_id="make-export")
        link = gr.HTML(elem_id="export-link")
        blocks.load(self.batch_names, None, batch, **FREE)
        make.click(self.export_link, values, link, **FREE)

    @telling
    def export_link(
        self, batch: str, format: str, file: str, since: str, until: str, agreement: str, simulated: bool,
        adjudicated: bool, request: gr.Request,
    ) -> str:  # fmt: skip
        """The address of the download, which asks for the role again: Gradio's own files would not."""
        self._account(request)
        chosen = Chosen(batch or "", (since or "").strip(), (until or "").strip(), not simulated)
        if problem := chosen.bad_day(self.lead):
            raise LabelError(problem)
        query: dict[str, Any] = {"format": format, "file": file, **chosen.query()}
        if agreement.strip():
            try:
                query["min_agreement"] = float(agreement)
            except ValueError:
                raise LabelError(self.lead["bad_share"].format(value=agreement)) from None
        if adjudicated:
            query["adjudicated"] = "true"
        address, lead = escaped(urlencode(query)), self.lead
        return f'<p><a class="download" href="{self.root}/api/lead/export?{address}" download>{lead["download"]}</a> {lead["download_hint"]}</p>'

    # People

    def _people_form(self, blocks: gr.Blocks) -> None:
        lead = self.lead
        people = gr.HTML(elem_id="people")
        gr.HTML(f"<p>{lead['account_hint']}</p><h2>{lead['tokens']}</h2>")
        owned = gr.HTML(elem_id="tokens")
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
        return self._table([lead[name] for name in names], rows), self._tokens(account)

    def _tokens(self, account: Account) -> str:
        mine = [row for row in tokens(self.database, account.name) if not row["revoked"]]
        rows = [(row["id"], row["label"], date.fromtimestamp(row["created"])) for row in mine]
        return self._table(["#", self.lead["name"], self.words["columns"]["day"]], rows) if rows else ""

    def _table(self, columns: list[str], rows: list[tuple[Any, ...]]) -> str:
        return inert(part("table", self.language, self.root, columns, rows))

    def make_token(self, label: str, request: gr.Request) -> tuple[str, str]:
        account = self._account(request)
        token = add_token(self.database, account.name, label or "token")
        return f"<p>{escaped(self.lead['token_once'].format(token=token))}</p>", self._tokens(account)

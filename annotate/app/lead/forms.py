"""A lead's forms for batches: a new one, the settings of one, an export."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from annotate.answers.export import FORMATS
from annotate.app.components.page_part import PagePart
from annotate.app.lead.chosen import Chosen
from annotate.app.lead.desk import FREE, Desk, telling
from annotate.app.lead.new_batch import UploadIn, make_batch
from annotate.app.lead.trees import Tree, said
from annotate.work.batches import KINDS, batch_settings, change_batch
from rlhf.errors import LabelError

ALLOWS = ("may_skip", "show_progress")
ASKS = ("ratings", "flags", "comment", "none_acceptable", "strength")


class Forms:
    """Public methods are event handlers; each asks by itself who is there."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.lead = desk.lead

    # Settings of a batch

    def settings(self, blocks: gr.Blocks) -> None:
        """The form for the settings of the batch that the page's address names, or another one."""
        self.desk.heading("settings")
        lead = self.lead
        name = self.desk.batch_choice("settings-batch")
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
        saved = PagePart("tree", elem_id="saved")
        save.click(self.save_settings, [name, *fields], saved, **FREE)

    def _allows(self, value: list[str]) -> gr.CheckboxGroup:
        words = [(self.lead[name], name) for name in ALLOWS]
        return gr.CheckboxGroup(words, value=value, label=self.lead["allows"])

    def _orders(self) -> list[tuple[str, str]]:
        return [(self.lead["random"], "random"), (self.lead["priority"], "priority")]

    def wanted_batch(self, request: gr.Request) -> list[Any]:
        """The names of all batches, and the settings of the one that the page's address names."""
        self.desk.account(request)
        wanted = request.query_params.get("batch")
        return [self.desk.choices(wanted), *self.show_settings(wanted, request)]

    def show_settings(self, name: str | None, request: gr.Request) -> list[Any]:
        self.desk.account(request)
        if name not in self.desk.kinds():
            return [gr.skip()] * 7
        found = batch_settings(self.desk.database, str(name))
        allowed = [ability for ability in ALLOWS if getattr(found.asks, ability)]
        return [
            found.open, found.guidelines, found.overlap, found.quota, found.task_order, allowed, found.asks.comment_below,
        ]  # fmt: skip

    @telling
    def save_settings(
        self, name: str | None, is_open: bool, guidelines: str, overlap: int, quota: int, order: str, allows: list[str],
        below: int, request: gr.Request,
    ) -> Tree:  # fmt: skip
        self.desk.account(request)
        changes: dict[str, Any] = {
            "overlap": int(overlap or 0),
            "quota": int(quota or 0),
            "task_order": order,
        }
        changes |= {ability: ability in allows for ability in ALLOWS} | {"comment_below": int(below or 0)}
        change_batch(self.desk.database, name or "", open=is_open, guidelines=guidelines, **changes)
        return self._done(self.lead["saved"])

    # A new batch

    def new_batch(self, blocks: gr.Blocks) -> None:
        """The form for a new batch from a file."""
        self.desk.heading("new_batch")
        lead = self.lead
        with gr.Row():
            name = gr.Textbox(label=lead["name"], max_length=200, elem_id="new-name")
            kinds = [(self.desk.words["kinds"][kind], kind) for kind in KINDS]
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
                [(lead["from_file"], "")], value="", label=lead["sample_from"], elem_id="new-checkpoint",
                allow_custom_value=True,
            )  # fmt: skip
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
        created = PagePart("tree", elem_id="created")
        values = [
            name, kind, file, gold, checkpoint, k, asks, keep, overlap, quota, gold_every, order, guidelines,
            columns, answers, left, skip, shown, allows, scale, below,
        ]  # fmt: skip
        blocks.load(self.list_checkpoints, None, checkpoint, **FREE)
        create.click(self.create_batch, values, created, **FREE)

    def list_checkpoints(self, request: gr.Request) -> Any:
        self.desk.account(request)
        sampler = self.desk.shared.sampler
        there = sampler.checkpoints() if sampler else []
        return gr.Dropdown(choices=[(self.lead["from_file"], ""), *((name, name) for name in there)])

    @telling
    def create_batch(
        self, name: str, kind: Any, file: str | None, gold: str | None, checkpoint: str, k: int, asks: list[str],
        keep: bool, overlap: int, quota: int, gold_every: int, order: Any, guidelines: str, columns: str, answers: str,
        left: str, skip: bool, shown: Any, allows: list[str], scale: int, below: int, request: gr.Request,
    ) -> Tree:  # fmt: skip
        self.desk.account(request)
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
            self.desk.database,
            new,
            Path(file),
            Path(file).name,
            gold_file,
            self.desk.shared.sampler,
            read.append,
        )
        for upload in filter(None, (file, gold)):
            Path(upload).unlink(missing_ok=True)
        created = self.lead["created"].format(name=name, tasks=made.tasks, answers=made.answers)
        return self._done(" ".join([created, *read[-1:]]))

    def _done(self, text: str) -> Tree:
        return said(text, " ", ["a", {"href": self.desk.at("/lead/")}, self.lead["batches"]])

    # Export

    def batch_names(self, request: gr.Request) -> Any:
        self.desk.account(request)
        return self.desk.choices("", every=True)

    def export(self, blocks: gr.Blocks) -> None:
        """The form for a download of the labels."""
        self.desk.heading("export")
        lead = self.lead
        with gr.Row():
            batch = self.desk.batch_choice("export-batch", every=True)
            format = gr.Radio(list(FORMATS), value="rankings", label=lead["format"])
            file = gr.Radio(["jsonl", "csv", "parquet", "zip"], value="jsonl", label=lead["file_type"])
        with gr.Row():
            since, until = (
                gr.Textbox(label=lead[name], elem_classes="day", max_lines=1) for name in ("since", "until")
            )
            agreement = gr.Textbox(label=lead["min_agreement"])
        simulated = gr.Checkbox(True, label=lead["simulated"])
        adjudicated = gr.Checkbox(label=lead["adjudicated"])
        values = [batch, format, file, since, until, agreement, simulated, adjudicated]
        PagePart("calendars")
        make = gr.Button(lead["export"], variant="primary", elem_id="make-export")
        link = PagePart("tree", elem_id="export-link")
        blocks.load(self.batch_names, None, batch, **FREE)
        make.click(self.export_link, values, link, **FREE)

    @telling
    def export_link(
        self, batch: str, format: str, file: str, since: str, until: str, agreement: str, simulated: bool,
        adjudicated: bool, request: gr.Request,
    ) -> Tree:  # fmt: skip
        """The address of the download, which asks for the role again: Gradio's own files would not."""
        self.desk.account(request)
        chosen = Chosen(batch or "", (since or "").strip(), (until or "").strip(), not simulated)
        if problem := chosen.bad_day(self.lead):
            raise LabelError(problem)
        query: dict[str, Any] = {"format": format, "file": file, **chosen.query()}
        if (agreement or "").strip():
            try:
                query["min_agreement"] = float(agreement)
            except ValueError:
                raise LabelError(self.lead["bad_share"].format(value=agreement)) from None
        if adjudicated:
            query["adjudicated"] = "true"
        address = self.desk.at(f"/api/lead/export?{urlencode(query)}")
        link = ["a", {"class": "download", "href": address, "download": ""}, self.lead["download"]]
        return [["p", link, " ", self.lead["download_hint"]]]

"""What a lead does as a script: endpoints of `gr.api` for gradio_client, over the same functions as REST.

Each finds out for itself who is asking. Named in docs/labeling.md, with a script.
"""

import base64
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from annotate.app.lead.api import (
    ChangesIn,
    GoldsIn,
    NewBatchIn,
    add_gold_to,
    add_tasks_as_batch,
    exported_to,
    file_name,
    found_disagreements,
    keep_verdict,
)
from annotate.app.lead.chosen import Chosen
from annotate.app.lead.new_batch import UploadIn, make_batch
from annotate.app.lead.people import PeopleIn, PersonIn, add_people, change_person, people_list
from annotate.app.payloads import AnswerIn
from annotate.app.site.asking import account_behind, offer
from annotate.app.texts import DEFAULT, texts
from annotate.figures.tables import tables
from annotate.store.accounts import Account
from annotate.store.database import Database
from annotate.work.batches import change_batch, kinds
from rlhf.errors import InputError, LabelError

AS_TEXT = ("jsonl", "csv")
AS_BYTES = ("parquet", "zip")
Request = gr.Request
WHOEVER: Any = None  # Gradio gives the request; a parameter after others that have a default needs one too


class LeadEndpoints:
    """shared: the whole app's state (store, settings, sampler, computed figures)."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    @property
    def database(self) -> Database:
        """The label database."""
        return self.shared.store.database  # type: ignore[no-any-return]

    def offer(self) -> None:
        """Offer every endpoint in the Blocks that is being made."""
        for offered in (
            self.create_batch, self.import_batch, self.change_batch, self.add_gold, self.labelers, self.add_labelers,
            self.change_labeler, self.figures, self.disagreements, self.adjudicate, self.export,
        ):  # fmt: skip
            offer(offered)

    def _lead(self, request: gr.Request) -> Account:
        return account_behind(self.database, request, "lead")

    def create_batch(self, batch: dict[str, Any], request: Request) -> dict[str, Any]:
        """Make a batch: name, tasks ({prompt, completions, …}) and settings as for POST /api/lead/batches."""
        self._lead(request)
        return add_tasks_as_batch(self.shared.store, NewBatchIn.model_validate(batch))

    def import_batch(
        self, settings: dict[str, Any], file_name: str, content: str, request: Request
    ) -> dict[str, Any]:
        """Make a batch of a file that `rlhf labels import` reads: its name, and its text (.parquet and .gz in base64)."""
        self._lead(request)
        new = UploadIn.model_validate(settings)
        endings = "".join(Path(file_name).suffixes[-2:]).lower()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{endings[-20:]}"
            path.write_bytes(_bytes(content) if endings.endswith((".parquet", ".gz")) else content.encode())
            made = make_batch(self.database, new, path, file_name, sampler=self.shared.sampler)
        return {"batch": new.name, "tasks": made.tasks, "answers": made.answers}

    def change_batch(self, batch: str, changes: dict[str, Any], request: Request) -> bool:
        """Open or close a batch, or change its settings, as PATCH /api/lead/batches does."""
        self._lead(request)
        change_batch(self.database, batch, **ChangesIn.model_validate(changes).given())
        return True

    def add_gold(self, batch: str, gold: list[dict[str, Any]], request: Request) -> int:
        """Mix questions with known answers into a batch: {prompt, completions, ranks}; returns how many."""
        self._lead(request)
        return add_gold_to(self.database, batch, GoldsIn.model_validate({"gold": gold}))

    def labelers(self, request: Request) -> list[dict[str, Any]]:
        """Every account: name, role, origin, active, answers."""
        self._lead(request)
        return people_list(self.shared.store)

    def add_labelers(
        self, names: list[str], tokens: bool = False, request: Request = WHOEVER
    ) -> list[dict[str, str]]:
        """Make accounts; returns each with its password and, where asked for, a token. Neither is shown again."""
        lead = self._lead(request)
        return add_people(self.database, lead, PeopleIn(names=names, tokens=tokens))

    def change_labeler(
        self, name: str, active: bool | None = None, new_password: bool = False, request: Request = WHOEVER
    ) -> dict[str, str]:
        """Let a labeler in or keep them out, or give them a new password, which is not shown again."""
        lead = self._lead(request)
        change = PersonIn(active=active, new_password=new_password)
        return change_person(self.database, lead, name, change)

    def figures(
        self, batch: str = "", since: str = "", until: str = "", people_only: bool = False, request: Request = WHOEVER
    ) -> dict[str, Any]:  # fmt: skip
        """The dashboard's figures over all answers there are now: of each its columns, rows, and why it is undefined."""
        self._lead(request)
        answers = self._chosen(batch, since, until, people_only).choice()
        found = self.shared.computed.current(answers, lambda: tables(self.database, answers))
        return {
            name: {"columns": one.columns, "rows": one.rows, "note": one.note} for name, one in found.items()
        }

    def disagreements(
        self, batch: str, people_only: bool = False, limit: int = 20, offset: int = 0, request: Request = WHOEVER
    ) -> dict[str, Any]:  # fmt: skip
        """Tasks whose labelers differ, worst first, as GET /api/lead/disagreements replies."""
        lead = self._lead(request)
        return found_disagreements(
            self.shared, lead, batch, people_only, max(1, min(limit, 100)), max(0, offset)
        )

    def adjudicate(self, task: int, verdict: dict[str, Any], request: Request) -> dict[str, Any]:
        """Overrule the labelers of a task, as POST /api/lead/tasks/TASK/verdict does."""
        lead = self._lead(request)
        return keep_verdict(self.database, lead, int(task), AnswerIn.model_validate(verdict))

    def export(
        self, batch: str = "", format: str = "rankings", file: str = "jsonl", since: str = "", until: str = "",
        labelers: list[str] | None = None, people_only: bool = False, min_agreement: float | None = None,
        adjudicated: bool = False, request: Request = WHOEVER,
    ) -> dict[str, Any]:  # fmt: skip
        """The chosen labels under the name of the file's kind: jsonl and csv as text, parquet and zip in base64.

        With `name`, what the download is called, `rows`, and `snapshot`, which names the set of answers for good.
        """
        self._lead(request)
        if file not in AS_TEXT + AS_BYTES:
            raise InputError(f"file {file}: choose one of {', '.join(AS_TEXT + AS_BYTES)}")
        chosen = self._chosen(batch, since, until, people_only).choice(
            labelers or (), min_agreement, adjudicated
        )
        with tempfile.TemporaryDirectory() as folder:
            target, exported = exported_to(Path(folder), self.database, chosen, format, file)
            content = target.read_bytes()
        told = {"snapshot": exported.snapshot, "rows": exported.rows, "name": file_name(chosen, target)}
        return told | {file: content.decode() if file in AS_TEXT else base64.b64encode(content).decode()}

    def _chosen(self, batch: str, since: str, until: str, people_only: bool) -> Chosen:
        chosen = Chosen(batch, since, until, people_only)
        if problem := chosen.problem(kinds(self.database), texts(DEFAULT)["lead"]):
            raise LabelError(problem)
        return chosen


def _bytes(content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise InputError("the file's content is not base64") from None

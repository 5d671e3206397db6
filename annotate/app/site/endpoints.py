"""A whole round as a script: endpoints of `gr.api` for gradio_client, over the same functions as REST.

Each finds out for itself who is asking: from the session or token of this very request, and the role that the database
has now. Named in docs/labeling.md, with a script.
"""

import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from pydantic import ValidationError

from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.app.lead.api import NewBatchIn, add_tasks_as_batch
from annotate.app.lead.new_batch import first_problem
from annotate.app.lead.people import PeopleIn, add_people
from annotate.app.payloads import AnswerIn, shown
from annotate.app.work_api import given_view, keep_answer, next_for
from annotate.app.work_api import progress as progress_in
from annotate.store.accounts import Account, account_named
from annotate.store.database import Database
from annotate.work.batches import overview
from rlhf.data import as_messages
from rlhf.errors import LabelError, RLHFError

ALONE: dict[str, Any] = {"queue": False, "concurrency_limit": None}


class Endpoints:
    """shared: the whole app's state (store, settings, doorman)."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    @property
    def database(self) -> Database:
        """The label database."""
        return self.shared.store.database  # type: ignore[no-any-return]

    def offer(self) -> None:
        """Offer every endpoint in the Blocks that is being made."""
        for offered in (
            self.batches, self.create_batch, self.add_labelers, self.lease, self.submit, self.progress, self.export,
        ):  # fmt: skip
            gr.api(telling(offered), api_name=offered.__name__, **ALONE)

    def _account(self, request: gr.Request, role: str = "labeler") -> Account:
        account = account_named(self.database, request.username or "")
        if account is None or not account.active:
            raise LabelError("not signed in")
        if not account.at_least(role):
            raise LabelError(f"this needs the role {role}")
        return account

    def batches(self, request: gr.Request) -> list[dict[str, Any]]:
        """Every batch for a lead, those that are open for a labeler: name, kind, tasks, finished, open."""
        lead = self._account(request).at_least("lead")
        rows = [
            row.__dict__ for row in overview(self.database) if lead or (row.open and row.origin != "chat")
        ]
        names = ("name", "kind", "tasks", "finished", "open")
        return rows if lead else [{name: row[name] for name in names} for row in rows]

    def create_batch(self, batch: dict[str, Any], request: gr.Request) -> dict[str, Any]:
        """Make a batch: name, tasks ({prompt, completions, …}) and settings as for POST /api/lead/batches."""
        self._account(request, "lead")
        return add_tasks_as_batch(self.shared.store, NewBatchIn.model_validate(batch))

    def add_labelers(
        self, names: list[str], tokens: bool = False, request: gr.Request = None  # type: ignore[assignment]
    ) -> list[dict[str, str]]:  # fmt: skip
        """Make accounts; returns each with its password and, where asked for, a token. Neither is shown again."""
        account = self._account(request, "lead")
        return add_people(self.database, account, PeopleIn(names=names, tokens=tokens))

    def lease(self, batch: str, request: gr.Request) -> dict[str, Any]:
        """The next task of a batch for the caller: {task}, or {task: null, reason}.

        As POST /api/next replies, with the messages of the prompt and the texts of the answers, in shown order, as they are.
        """
        account = self._account(request)
        found = next_for(self.shared, account, batch or None)
        if found["task"] is None:
            return found
        view = given_view(self.database, account, found["task"]["id"])
        plain = {"messages": as_messages(view.prompt), "texts": shown(view.completions, view.shown_order)}
        return {"task": {**found["task"], **plain}}

    def submit(self, task: int, answer: dict[str, Any], request: gr.Request) -> dict[str, Any]:
        """Keep an answer to a task that was given out to the caller, as POST /api/tasks/TASK/answers takes it."""
        account = self._account(request)
        return keep_answer(self.shared, account, int(task), AnswerIn.model_validate(answer))

    def progress(self, batch: str, request: gr.Request) -> dict[str, Any]:
        """How far a batch is, and the caller's own answers in it."""
        return progress_in(batch, self._account(request), self.database)

    def export(
        self, batch: str, format: str = "rankings", request: gr.Request = None  # type: ignore[assignment]
    ) -> dict[str, Any]:  # fmt: skip
        """A batch's labels as JSONL in `jsonl`; `snapshot` names the set of answers for good."""
        self._account(request, "lead")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "labels.jsonl"
            exported = export(self.database, target, format, Choice(batch=batch or None))
            return {"snapshot": exported.snapshot, "rows": exported.rows, "jsonl": target.read_text("utf-8")}


def telling(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint whose refusals reach the caller as one line."""

    @wraps(endpoint)
    def told(*given: Any, **named: Any) -> Any:
        try:
            return endpoint(*given, **named)
        except ValidationError as error:
            raise gr.Error(first_problem(error)) from None
        except RLHFError as error:
            raise gr.Error(str(error)) from None
        except HTTPException as error:
            raise gr.Error(str(error.detail)) from None

    return told

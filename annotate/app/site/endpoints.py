"""A labeler's round as a script: endpoints of `gr.api` for gradio_client, over the same functions as REST.

Each finds out for itself who is asking. Named in docs/labeling.md, with a script.
"""

from typing import Any

import gradio as gr

from annotate.app.payloads import AnswerIn, shown
from annotate.app.site.asking import account_behind, offer
from annotate.app.work_api import counts_shown, given_view, keep_answer, next_for
from annotate.app.work_api import progress as progress_in
from annotate.store.accounts import Account
from annotate.store.database import Database
from annotate.work.batches import BatchOverview, overview
from annotate.work.history import own_progress
from rlhf.data import as_messages


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
        for offered in (self.batches, self.lease, self.submit, self.progress):
            offer(offered)

    def _account(self, request: gr.Request) -> Account:
        return account_behind(self.database, request)

    def batches(self, request: gr.Request) -> list[dict[str, Any]]:
        """Every batch for a lead, those that are open for a labeler: name, kind, tasks, finished, open."""
        account = self._account(request)
        rows = overview(self.database)
        if account.at_least("lead"):
            return [row.__dict__ for row in rows]
        return [
            {"name": row.name, "kind": row.kind, **self._counts(account, row), "open": row.open}
            for row in rows
            if row.open and row.origin != "chat"
        ]

    def _counts(self, account: Account, batch: BatchOverview) -> dict[str, int]:
        return counts_shown(own_progress(self.database, account.name, batch.name), batch)

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

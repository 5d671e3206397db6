"""What each page of a lead has, in one language: the store, the words, and the question who asks."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from pydantic import ValidationError

from annotate.app.components.page_part import PagePart
from annotate.app.lead.new_batch import first_problem
from annotate.app.lead.trees import Tree, wrong
from annotate.app.rendering import visible_text
from annotate.app.site.asking import account_behind
from annotate.app.texts import texts
from annotate.store.accounts import Account
from annotate.store.database import Database
from annotate.work.batches import BatchOverview, kinds, overview
from rlhf.errors import RLHFError

# A handler of the database may run beside any other; none of them is offered as a public endpoint.
FREE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "queue": False}


class Desk:
    """shared: the whole app's state (store, settings, sampler, computed figures).

    Each handler asks `account` who is there. Nothing is kept in gr.State or in a Dropdown's choices, which any browser can
    address, and which end with the process.
    """

    def __init__(self, shared: Any, language: str) -> None:
        self.shared = shared
        self.words = texts(language)
        self.lead = self.words["lead"]

    @property
    def database(self) -> Database:
        return self.shared.store.database  # type: ignore[no-any-return]

    def account(self, request: gr.Request) -> Account:
        """The lead behind an event. Raises LabelError for everybody else."""
        return account_behind(self.database, request, "lead")

    def at(self, path: str) -> str:
        """The address of a path of ours."""
        return f"{self.shared.settings.root_path}{path}"

    def heading(self, name: str) -> PagePart:
        return PagePart("tree", [["h1", self.lead[name]]])

    def batches(self) -> list[BatchOverview]:
        """Every batch with its counts, which takes a look at every task."""
        return overview(self.database)

    def kinds(self) -> dict[str, str]:
        """The kinds of all batches by name, oldest first."""
        return kinds(self.database)

    def batch_choice(self, elem_id: str, every: bool = False) -> gr.Dropdown:
        """A field for a batch. every: all of them may be meant. Its choices come with `choices` when the page opens."""
        first = [(self.lead["all_batches"], "")] if every else []
        return gr.Dropdown(
            first,
            value="" if every else None,
            label=self.lead["batch"],
            elem_id=elem_id,
            allow_custom_value=True,
        )

    def choices(self, wanted: str | None, every: bool = False) -> gr.Dropdown:
        """The batches there are now, with the wanted one chosen."""
        found = [(visible_text(name), name) for name in self.kinds()]
        found = [(self.lead["all_batches"], ""), *found] if every else found
        return gr.Dropdown(choices=found, value=wanted, allow_custom_value=True)


def telling(handler: Callable[..., Tree]) -> Callable[..., Tree]:
    """A handler that gives the note below a form: where the form was filled in wrongly it says so there.

    Gradio's own notes (gr.Error, gr.Info) appear only where an event takes its queue, and with it a connection.
    """

    @wraps(handler)
    def told(*given: Any, **named: Any) -> Tree:
        try:
            return handler(*given, **named)
        except ValidationError as error:
            return wrong(first_problem(error))
        except RLHFError as error:
            return wrong(str(error))

    return told

"""What a labeling page is made of. A page is a function that is given these parts and puts them where it wants them."""

import re
from typing import Any

import gradio as gr

from annotate.app.components.page_part import PagePart
from annotate.app.components.ranking_board import RankingBoard
from annotate.app.site.fields import Field, Fields
from rlhf.errors import InputError

# What a person can fill in by key and mouse, and JSON can hold.
FILLED_IN = (gr.Radio, gr.Dropdown, gr.Checkbox, gr.CheckboxGroup, gr.Textbox, gr.Number, gr.Slider)


class Parts:
    """The parts of one labeling page in one language; each method puts its part where it is called."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._board: RankingBoard | None = None
        self._fields: dict[str, tuple[Any, bool]] = {}

    def board(self) -> RankingBoard:
        """The next task with its answers; `submit` follows each answer that is stored, `select` each change."""
        if self._board is not None:
            raise InputError("a labeling page has one board; this one asks for a second")
        self._board = RankingBoard(tasks_from="work", elem_id="board")
        return self._board

    def field(self, component: Any, *, name: str, required: bool = False) -> Any:
        """A component of Gradio as one more thing to say to each task; returns the component.

        Its value is stored with the answer as `name`, kept in drafts and set back with the next task. required: an answer
        without it is refused. Raises InputError for a component that is nothing to fill in, and for a name used twice.
        """
        if not isinstance(component, FILLED_IN):
            there = ", ".join(kind.__name__ for kind in FILLED_IN)
            raise InputError(f"field {name}: {type(component).__name__} is none of {there}")
        if not re.fullmatch(r"[A-Za-z_]\w{0,63}", name) or name in self._fields:
            raise InputError(f"field {name!r}: a name is letters, digits and _, and used once")
        component.elem_id = component.elem_id or f"field-{name}"
        self._fields[name] = (component, required)
        return component

    def batch(self) -> PagePart:
        """Which batch this is, and the way to the others."""
        return PagePart("batch")

    def progress(self) -> PagePart:
        """How far the batch is, and the labeler's own answers in it."""
        return PagePart("progress")

    def history(self) -> PagePart:
        """The labeler's last answers, each of which can be opened and changed."""
        return PagePart("history")

    def connected(self) -> Fields:
        """The page's fields, from now on known to its board too. Raises InputError for a page without a board."""
        if self._board is None:
            raise InputError("the labeling page has no board; call parts.board() in it")
        components = [component for component, _ in self._fields.values()]
        if (
            components
        ):  # answered in the browser by static/fields.js, so that no connection is needed to fill in a form
            changed = gr.on(
                [component.change for component in components], _same, components, components,
                queue=False, show_progress="hidden", api_visibility="private", concurrency_limit=None,
            )  # fmt: skip
            self._board.fields = {"event": changed["id"], "of": self._described()}
        return Fields(
            tuple(
                Field(name, component.label or name, required, _taking(component))
                for name, (component, required) in self._fields.items()
            )
        )

    def _described(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "id": component._id,
                "place": component.elem_id,
                "label": component.label or name,
                "required": required,
                "value": component.value,
            }
            for name, (component, required) in self._fields.items()
        ]


def _same(*values: Any) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _taking(component: Any) -> Any:
    def takes(value: Any) -> None:
        if isinstance(component, gr.Textbox) and not isinstance(value, str):
            raise ValueError("it takes text")
        if isinstance(component, gr.Checkbox) and not isinstance(value, bool):
            raise ValueError("it takes yes or no")
        component.preprocess(value)

    return takes


def default_page(parts: Parts) -> None:
    """The page of `rlhf label` where no other is named."""
    with gr.Row(elem_classes="above"):
        parts.batch()
        parts.progress()
    parts.board()

"""A place in a Gradio page that a script of ours fills, with texts of people that stay texts."""

from collections.abc import Sequence
from typing import Any

from gradio.components.base import Component
from gradio.data_classes import DeveloperPath


class PagePart(Component):
    """shows: the script that fills it, such as batch, progress, tasks (static/site.js), or tree (static/lead.js).

    value: what Python gives that script to show, a handler's reply too. It has no events.
    """

    EVENTS: list[Any] = []  # noqa: RUF012  as Gradio declares it
    TEMPLATE_DIR = DeveloperPath("./templates/")

    def __init__(
        self, shows: str, value: Any = None, *, elem_id: str | None = None, render: bool = True
    ) -> None:
        self.shows = shows
        super().__init__(value=value, elem_id=elem_id, show_label=False, container=False, render=render)

    def postprocess(self, value: Any) -> Any:
        """The value as it is; a tree's nodes and nothing else may come from people's texts."""
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    def preprocess(self, payload: Any) -> None:
        return None

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}

    def example_payload(self) -> None:
        return None

    def example_value(self) -> None:
        return None

"""A place in a Gradio page that a script of the labeling pages fills, with texts of people that stay texts."""

from typing import Any

from gradio.components.base import Component
from gradio.data_classes import DeveloperPath


class PagePart(Component):
    """shows: batch, progress, tasks or history (static/site.js). It has no value and no events."""

    EVENTS: list[Any] = []  # noqa: RUF012  as Gradio declares it
    TEMPLATE_DIR = DeveloperPath("./templates/")

    def __init__(self, shows: str, *, render: bool = True) -> None:
        self.shows = shows
        super().__init__(show_label=False, container=False, render=render)

    def postprocess(self, value: Any) -> None:
        return None

    def preprocess(self, payload: Any) -> None:
        return None

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}

    def example_payload(self) -> None:
        return None

    def example_value(self) -> None:
        return None

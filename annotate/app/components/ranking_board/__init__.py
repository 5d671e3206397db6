"""The ranking board, a Gradio component: texts go in, a ranking, ratings, a choice between two or a demonstration come out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.base import Component
from gradio.data_classes import DeveloperPath
from gradio.events import Events
from pydantic import ValidationError

from annotate.app.payloads import AnswerIn, choice_of, said_by_choice
from annotate.app.rendering import FOLD_AT, rendered, visible
from annotate.app.texts import texts
from annotate.work.asks import Asks
from rlhf.data import as_messages

SPOKEN = ("rank", "rate", "pair", "write", "work", "roles", "flags", "help")  # sections of the catalogue
Value = Mapping[str, Any]


class RankingBoard(Component):
    """A board on which a person ranks answers with ties, rates them, says which of two is better, or writes an answer.

    value: {"prompt": a text or messages, "completions": a list of texts}, and what is known of the answer already, by
    the names below. kind: rank, rate, compare or demonstrate. asks: what is asked besides. tasks_from: a part of a labeling
    page that brings tasks of its own; a board without one shows its value.

    Handlers get {"prompt", "completions", "kind", "ranks", "ratings", "flags", "verdict", "strength",
    "demonstration", "none_acceptable", "comment"}; lists follow the completions, rank 0 is best, equal ranks tie, None
    is not ranked yet. `submit`: the person has sent it, and it is whole. `select`: something has changed.
    """

    if TYPE_CHECKING:  # made by Gradio, of EVENTS
        select: Any
        submit: Any

    EVENTS: list[Any] = [Events.select, Events.submit]  # noqa: RUF012  as Gradio declares it
    TEMPLATE_DIR = DeveloperPath("./templates/")

    def __init__(
        self,
        value: Value | Callable[[], Value] | None = None,
        *,
        kind: str = "rank",
        asks: Asks | None = None,
        language: str = "en",
        tasks_from: str = "",
        label: str | None = None,
        visible: bool = True,
        elem_id: str | None = None,
        elem_classes: list[str] | str | None = None,
        render: bool = True,
        key: int | str | None = None,
    ) -> None:
        self.kind = kind
        self.asks = asdict(asks or Asks())
        self.tasks_from = tasks_from
        self.language = language
        self.fields: dict[str, Any] = {}  # of the page around it; see site/parts.py
        super().__init__(
            value=value,
            label=label,
            show_label=False,
            container=False,
            visible=visible,
            elem_id=elem_id,
            elem_classes=elem_classes,
            render=render,
            key=key,
        )

    def get_config(self, cls: type | None = None) -> dict[str, Any]:
        """The properties that the page gets: a board without a page around it brings its words."""
        words = texts(self.language)
        spoken = {} if self.tasks_from else {name: words[name] for name in SPOKEN}
        return {**super().get_config(cls), "words": spoken, "fields": self.fields}

    def postprocess(self, value: Value | None) -> dict[str, Any] | None:
        """A value as the page shows it."""
        if value is None:
            return None
        answers = [_text(text) for text in value["completions"]]
        prompt = [{"role": turn["role"], **_text(turn["content"])} for turn in as_messages(value["prompt"])]
        return {
            "prompt": value["prompt"],
            "task": {"kind": self.kind, "prompt": prompt, "answers": answers},
            "answer": self._known(value),
            "submitted": None,
        }

    def preprocess(self, payload: dict[str, Any] | None) -> dict[str, Any] | None:
        """What the person said; raises gr.Error for what no board of ours sends."""
        if payload is None:
            return None
        try:
            completions = [answer["text"] for answer in payload["task"]["answers"]]
            said = payload["submitted"] or self._draft(payload["answer"])
            checked = AnswerIn.model_validate({"kind": self.kind, **said, "client_id": "board"})
        except (KeyError, TypeError, ValidationError):
            raise gr.Error("this is no answer of a ranking board") from None
        lists = (checked.ranks, checked.ratings, checked.flags)
        if any(len(given) not in (0, len(completions)) for given in lists):
            raise gr.Error(f"a ranking board with {len(completions)} answers was told of others")
        answer = checked.model_dump(exclude={"client_id", "time_s"})
        if payload["submitted"] is None and self.kind == "rank" and "ranks" in payload["answer"]:
            answer["ranks"] = _ranks(payload["answer"])
        return {"prompt": payload["prompt"], "completions": completions, **answer}

    def _known(self, value: Value) -> dict[str, Any]:
        """What is known of the answer, as the page's scripts have it in their `state()`."""
        known = {name: value[name] for name in AnswerIn.model_fields if name in value}
        if len(value["completions"]) == 2 and self.kind in ("rank", "compare"):
            ranks, verdict, strength = (known.pop(name, None) for name in ("ranks", "verdict", "strength"))
            known["choice"] = choice_of(ranks or (), verdict, strength if self.asks["strength"] else None)
        elif "ranks" in known:
            known["ranks"] = [None if rank is None else rank + 1 for rank in known["ranks"] or []]
        return known

    def _draft(self, state: dict[str, Any]) -> dict[str, Any]:
        """A board's state before it is submitted, as far as it is an answer already."""
        names = ("ratings", "flags", "comment", "none_acceptable")
        said: dict[str, Any] = {name: state[name] for name in names if name in state}
        if self.kind == "demonstrate":
            said["demonstration"] = state.get("demonstration", "")
        said |= said_by_choice(self.kind, state.get("choice"))
        return said if self.asks["strength"] else {**said, "strength": None}

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}

    def example_payload(self) -> Any:
        return self.postprocess(self.example_value())

    def example_value(self) -> Any:
        return {"prompt": "Name a planet.", "completions": ["Mars", "The Moon", "Pluto"]}


def _text(text: str) -> dict[str, Any]:
    """A text with how it is shown; what is shown folded comes along whole."""
    return {**rendered(text), "text": text, **({"whole": visible(text)} if len(text) > FOLD_AT else {})}


def _ranks(state: dict[str, Any]) -> list[int | None]:
    return [None if rank is None else rank - 1 for rank in state.get("ranks") or []]

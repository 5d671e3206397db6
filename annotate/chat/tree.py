"""A conversation as the page sees it: a tree of turns, pairs of answers to choose from, and the feedback on them."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from annotate.app.rendering import rendered, visible
from annotate.chat.conversations import StoredMessage, messages
from annotate.chat.feedback import ChatAnswer
from annotate.store.database import Database
from annotate.store.schema import Annotation, Labeler
from rlhf.data import Message
from rlhf.errors import LabelError

# What a stored answer's `sampling` holds besides the sampling settings: what the page needs to show it again.
NOT_SAMPLING = frozenset({"pair", "reason"})


@dataclass
class Tree:
    """Every message of a conversation by its id."""

    conversation: int
    nodes: dict[int, StoredMessage] = field(default_factory=dict)

    @classmethod
    def read(cls, database: Database, labeler: str, conversation: int) -> "Tree":
        """An own conversation. Raises LabelError for any other."""
        return cls(conversation, {turn.id: turn for turn in messages(database, labeler, conversation)})

    def turn(self, number: int, role: str) -> StoredMessage:
        """A message of the conversation that has this role. Raises LabelError otherwise."""
        found = self.nodes.get(number)
        if found is None or found.role != role:
            raise LabelError(f"message {number}: there is no such {role} message in this conversation")
        return found

    def path(self, number: int | None) -> list[Message]:
        """The turns from the first one to message `number`, which is the last."""
        turns: list[Message] = []
        while number is not None:
            turn = self.nodes[number]
            turns.append({"role": turn.role, "content": turn.content})
            number = turn.parent
        return turns[::-1]

    def prompt(self, answer: StoredMessage) -> list[Message]:
        """What the model was given for this answer: the system text of then, without the turns that did not fit."""
        turns = self.path(answer.parent)[answer.sampling.get("dropped", 0) :]
        system = answer.sampling.get("system")
        return [{"role": "system", "content": system}, *turns] if system else turns

    def answer(self, number: int) -> ChatAnswer:
        """An answer as feedback records it."""
        turn = self.turn(number, "assistant")
        sampling = {name: value for name, value in turn.sampling.items() if name not in NOT_SAMPLING}
        return ChatAnswer(text=turn.content, checkpoint=turn.checkpoint, sampling=sampling, ended=turn.ended)


@dataclass(frozen=True)
class Mark:
    """Feedback that stands: kind is rate, demonstrate or compare; answers are the ids of the messages it is about."""

    annotation: int
    kind: str
    verdict: str | None
    text: str | None
    answers: tuple[int, ...]


def marks(database: Database, labeler: str, conversation: int) -> list[Mark]:
    """An account's feedback on one conversation, oldest first."""
    columns = (
        Annotation.id,
        Annotation.kind,
        Annotation.verdict,
        Annotation.demonstration,
        Annotation.context,
    )
    query = (
        select(*columns)
        .join(Labeler, Labeler.id == Annotation.labeler_id)
        .where(
            Labeler.name == labeler,
            Annotation.standing,
            Annotation.origin == "chat",
            Annotation.context["conversation"].as_integer() == conversation,
        )
        .order_by(Annotation.id)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        Mark(number, kind, verdict, text, tuple(context["answers"]))
        for number, kind, verdict, text, context in rows
    ]


def prompt_id(answer: StoredMessage) -> str:
    """The same for answers to one question that were given one prompt: the same system text, as many turns left out."""
    seen = f"{answer.sampling.get('dropped', 0)} {answer.sampling.get('system', '')}"
    return hashlib.sha256(seen.encode(errors="replace")).hexdigest()[:16]


def hidden_models(tree: Tree, given: list[Mark]) -> set[int]:
    """Answers of blind pairs that nobody has chosen from: whose they are is not told yet.

    There is no choice between answers that were given different prompts, so these are not blind.
    """
    judged = {number for mark in given if mark.kind == "compare" for number in mark.answers}
    blind = [turn for turn in tree.nodes.values() if turn.sampling.get("pair", {}).get("blind")]
    prompts: dict[str, set[str]] = {}
    for turn in blind:
        prompts.setdefault(turn.sampling["pair"]["id"], set()).add(prompt_id(turn))
    return {
        turn.id for turn in blind if turn.id not in judged and len(prompts[turn.sampling["pair"]["id"]]) == 1
    }


def turn_json(turn: StoredMessage, hidden: bool) -> dict[str, Any]:
    """A message for the page, its text harmless; a blind answer without what would tell whose it is."""
    sampling = {name: value for name, value in turn.sampling.items() if name not in ("pair", "system")}
    return {
        "id": turn.id,
        "parent": turn.parent,
        "role": turn.role,
        "content": turn.content,
        "text": rendered(turn.content) if turn.role == "assistant" else {"nodes": visible(turn.content)},
        "ended": turn.ended,
        "checkpoint": "" if hidden else turn.checkpoint,
        "sampling": {name: sampling[name] for name in ("dropped", "reason") if name in sampling}
        if hidden
        else sampling,
        "pair": turn.sampling.get("pair"),
        "prompt_id": prompt_id(turn),
        "created": turn.created,
    }


def branches(tree: Tree, given: list[Mark]) -> list[dict[str, Any]]:
    """One row per branch, from the first turn to its last answer, as `read_demonstrations` reads them: for export."""
    hidden, gone_on = hidden_models(tree, given), answers_before_others(tree)
    rows = []
    for turn in tree.nodes.values():
        if turn.role == "assistant" and turn.id not in gone_on:
            answered = [*tree.prompt(turn), {"role": "assistant", "content": turn.content}]
            rows.append({"messages": answered, "checkpoint": "" if turn.id in hidden else turn.checkpoint})
    return rows


def answers_before_others(tree: Tree) -> set[int]:
    """Messages that some later answer follows, however far below."""
    found: set[int] = set()
    for turn in tree.nodes.values():
        above = turn.parent if turn.role == "assistant" else None
        while above is not None and above not in found:
            found.add(above)
            above = tree.nodes[above].parent
    return found

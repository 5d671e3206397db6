"""OpenAssistant's trees of messages, nested or one message a row, and our own rows of `messages` with `replies`."""

from collections.abc import Iterable, Iterator
from typing import Any

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import prompt_of
from rlhf.data.formats.turns import labeler_of, spelled, text, truth, whole_number
from rlhf.data.rows import BadRow, Demonstration, LeftOut, Message, Prompt, Ranking, Row

SIDES = {"prompter": "user", "user": "user", "human": "user", "assistant": "assistant"}
Node = dict[str, Any]
Question = tuple[
    list[Message], list[Node]
]  # a conversation that ends with the prompter, and the replies to it


def _questions(node: Row, before: list[Message]) -> Iterator[Question]:
    """Every message of the prompter with what was said before it, and its replies."""
    message = _message(node)
    if message is None:
        return
    conversation = [*before, message]
    given = node.get("replies") or []
    if not isinstance(given, list):
        raise BadRow(f'"replies" must be a list, not {spelled(given)}')
    replies = [reply for reply in given if isinstance(reply, dict) and not _removed(reply)]
    if message["role"] == "user":
        yield conversation, replies
    for reply in replies:
        yield from _questions(node.inner(reply), conversation)


def _message(node: Row) -> Message | None:
    """What a message of a tree says; None for one that was removed. Raises BadRow for columns that may matter beside it."""
    if _removed(node):
        return None
    role = node.get("role")
    side = SIDES.get(role) if isinstance(role, str) else None
    if side is None:
        raise BadRow(f"a message of a tree needs a role of prompter or assistant, not {spelled(role)}")
    said = text(node.get("text"), "text")
    nothing_lost(said, node)
    return {"role": side, "content": said}


def _removed(node: Node) -> bool:
    return truth(node.get("deleted")) is True or truth(node.get("review_result")) is False


def _ranked(found: Question) -> Iterator[Ranking]:
    conversation, replies = found
    ranked = [(reply, whole_number(reply.get("rank"))) for reply in replies]
    known = [(text(reply.get("text"), "text"), rank) for reply, rank in ranked if rank is not None]
    if len(known) > 1:
        yield Ranking(
            prompt=conversation,
            completions=tuple(said for said, _ in known),
            ranks=tuple(rank for _, rank in known),
        )


def _best(found: Question) -> Iterator[Demonstration]:
    """The best-ranked reply, or the only one; the assistant's earlier turns may be ones that people ranked low."""
    conversation, replies = found
    ranked = [(rank, reply) for reply in replies if (rank := whole_number(reply.get("rank"))) is not None]
    chosen = min(ranked, key=lambda one: one[0])[1] if ranked else replies[0] if len(replies) == 1 else None
    if chosen is not None and text(chosen.get("text"), "text").strip():
        unlearned = tuple(i for i, one in enumerate(conversation) if one["role"] == "assistant")
        yield Demonstration(prompt=conversation, completion=chosen["text"], unlearned=unlearned)


def _asked(found: Question) -> Iterator[Prompt]:
    if found[0][-1]["content"].strip():
        yield found[0]


def nested_rankings(row: Row) -> Iterator[Ranking]:
    """The rankings in a tree, each of the replies to one message of the prompter."""
    for question in _questions(row.inner(row["prompt"]), []):
        yield from _ranked(question)


def nested_demonstrations(row: Row) -> Iterator[Demonstration]:
    """The best reply to each message of the prompter in a tree."""
    for question in _questions(row.inner(row["prompt"]), []):
        yield from _best(question)


def nested_prompts(row: Row) -> Iterator[Prompt]:
    """Each message of the prompter in a tree, with what was said before it."""
    for question in _questions(row.inner(row["prompt"]), []):
        yield from _asked(question)


def _flat(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Question | BadRow]]:
    """The questions of trees whose messages stand in rows of their own, in any order.

    A row that cannot be read takes what answers it with it.
    """
    nodes: dict[str, tuple[str, Row]] = {}
    for where, row in rows:
        node = row.changed({**row, "replies": []})
        try:
            _message(node)
        except BadRow as problem:
            yield where, problem
            node["deleted"] = True
        nodes[str_id(row["message_id"])] = (where, node)
    roots: list[tuple[str, Row]] = []
    for where, node in nodes.values():
        parent = nodes.get(str_id(node.get("parent_id")))
        if parent is None:
            roots.append((where, node))
        else:
            parent[1]["replies"].append(node)
    for where, node in roots:
        try:
            for question in _questions(node, []):
                yield where, question
        except (BadRow, RecursionError) as problem:
            yield where, problem if isinstance(problem, BadRow) else BadRow("the tree is nested too deep")


def str_id(value: Any) -> str:
    """An id, text or number, as text to compare; it is never shown."""
    return repr(value)


def flat_rankings(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Any]]:
    """(place, ranking) of trees with one message a row."""
    yield from _each(rows, _ranked)


def flat_demonstrations(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Any]]:
    """(place, demonstration) of trees with one message a row."""
    yield from _each(rows, _best)


def flat_prompts(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Any]]:
    """(place, prompt) of trees with one message a row."""
    yield from _each(rows, _asked)


def _each(rows: Iterable[tuple[str, Row]], read: Any) -> Iterator[tuple[str, Any]]:
    for where, question in _flat(rows):
        if isinstance(question, BadRow):
            yield where, question
            continue
        try:
            for found in read(question):
                yield where, found
        except BadRow as problem:
            yield where, problem


def replied(row: Row) -> Iterator[Ranking]:
    """The ranking of `replies` to `messages` or `prompt`."""
    replies = row["replies"]
    if not isinstance(replies, list) or not all(isinstance(one, dict) for one in replies):
        raise BadRow('"replies" must be a list of {text, rank}')
    ranks = tuple(whole_number(one.get("rank")) for one in replies)
    if None in ranks:
        raise BadRow('each of "replies" needs a "rank"; 0 is best')
    completions = tuple(text(one.get("text"), "replies") for one in replies)
    if len(completions) < 2:
        raise LeftOut("with no other answer to compare")
    yield Ranking(
        prompt=prompt_of(row),
        completions=completions,
        ranks=tuple(rank or 0 for rank in ranks),
        labeler=labeler_of(row),
    )

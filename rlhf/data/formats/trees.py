"""OpenAssistant's trees of messages, nested or one message a row, and our own rows of `messages` with `replies`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import EMPTY, prompt_of
from rlhf.data.formats.turns import labeler_of, spelled, text, truth, whole_number
from rlhf.data.rows import BadRow, Demonstration, LeftOut, Message, Prompt, Ranking, Row

SIDES = {"prompter": "user", "user": "user", "human": "user", "assistant": "assistant"}
Node = dict[str, Any]
Placed = tuple[str, Row]
Gathered = Iterator[tuple[list[str], Any]]
NOT_BELOW = "that were removed, or stand below no first message"


class Question(NamedTuple):
    """A conversation that ends with the prompter, that last message, and the replies to it."""

    conversation: list[Message]
    message: Node
    replies: list[Node]


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
        yield Question(conversation, node, replies)
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
    conversation, _, replies = found
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
    conversation, _, replies = found
    ranked = [(rank, reply) for reply in replies if (rank := whole_number(reply.get("rank"))) is not None]
    chosen = min(ranked, key=lambda one: one[0])[1] if ranked else replies[0] if len(replies) == 1 else None
    if chosen is not None and text(chosen.get("text"), "text").strip():
        unlearned = tuple(i for i, one in enumerate(conversation) if one["role"] == "assistant")
        yield Demonstration(prompt=conversation, completion=chosen["text"], unlearned=unlearned)


def _asked(found: Question) -> Iterator[Prompt]:
    if found.conversation[-1]["content"].strip():
        yield found.conversation


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


class _Messages:
    """Messages of a source, one a row, by their ids, and what is wrong with those that stand in no tree."""

    def __init__(self, rows: Iterable[Placed]) -> None:
        self.nodes: dict[str, tuple[str, Row]] = {}
        self.problems: list[tuple[list[str], BadRow | LeftOut]] = []
        for where, row in rows:
            self._add(where, row)
        self.roots: list[Row] = []
        for where, node in self.nodes.values():
            self._hang(where, node)
        self._unreached()

    def _add(self, where: str, row: Row) -> None:
        node = row.changed({**row, "replies": []})
        before = self.nodes.get(str_id(row["message_id"]))
        if before is not None:
            is_same = all(before[1].get(name) == row.get(name) for name in ("text", "role", "parent_id"))
            twice = BadRow(f"the message_id is that of {before[0]}, and the message another one")
            self.problems.append(([where], LeftOut("that stand there twice") if is_same else twice))
            return
        try:
            _message(node)
        except BadRow as problem:
            self.problems.append(([where], problem))
            node["unreadable"] = node["deleted"] = True
        self.nodes[str_id(row["message_id"])] = (where, node)

    def _hang(self, where: str, node: Row) -> None:
        """Put a message under the one that it answers."""
        answered = node.get("parent_id")
        if answered in EMPTY or answered != answered:  # tables spell what is missing as NaN, too
            self.roots.append(node)
        elif parent := self.nodes.get(str_id(answered)):
            parent[1]["replies"].append(node)
        else:
            self.problems.append(([where], LeftOut("that answer a message that is not there")))
            node["unreadable"] = True

    def _unreached(self) -> None:
        """Note each message that no root leads to, and that is not noted for itself."""
        reached, waiting = set[str](), [*self.roots]
        while waiting:
            node = waiting.pop()
            if not _removed(node):
                reached.add(str_id(node["message_id"]))
                waiting += node["replies"]
        for name, (where, node) in self.nodes.items():
            if name not in reached and not node.get("unreadable"):
                self.problems.append(([where], LeftOut(NOT_BELOW)))

    def places(self, question: Question) -> list[str]:
        """Where the message of a question and the replies to it stand."""
        return [self.nodes[str_id(one["message_id"])][0] for one in (question.message, *question.replies)]


def str_id(value: Any) -> str:
    """An id, text or number, as text to compare; it is never shown."""
    number = None if isinstance(value, str) else whole_number(value)
    return repr(value) if number is None else f"{number}"


def flat_rankings(rows: Iterable[Placed]) -> Gathered:
    """(places, ranking) of trees with one message a row."""
    yield from _each(rows, _ranked)


def flat_demonstrations(rows: Iterable[Placed]) -> Gathered:
    """(places, demonstration) of trees with one message a row."""
    yield from _each(rows, _best)


def flat_prompts(rows: Iterable[Placed]) -> Gathered:
    """(places, prompt) of trees with one message a row."""
    yield from _each(rows, _asked)


def _each(rows: Iterable[Placed], read: Callable[[Question], Iterator[Any]]) -> Gathered:
    """What is read of each question of trees whose messages stand in rows of their own, in any order.

    A row that cannot be read, or is not there, takes what answers it with it.
    """
    messages = _Messages(rows)
    yield from messages.problems
    for root in messages.roots:
        places = [messages.nodes[str_id(root["message_id"])][0]]
        try:
            for question in _questions(root, []):
                places = messages.places(question)
                for found in read(question):
                    yield places, found
        except (BadRow, RecursionError) as problem:
            yield places, problem if isinstance(problem, BadRow) else BadRow("the tree is nested too deep")


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

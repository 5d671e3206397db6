"""Rankings as other tools and public data sets publish them, read into ours."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from annotate.store.database import storable
from rlhf.data import BadRow, Message, Prompt, Ranking, as_messages, prompt_of, ranking_of, read_rows
from rlhf.errors import InputError

MAX_ANSWERS = 9
PROMPT_FIELDS = ("prompt", "instruction", "question", "query", "input", "messages", "chat", "conversation")
ROLES = {"prompter": "user", "assistant": "assistant", "user": "user"}


def read_labels(source: str | Path, skip_bad_rows: bool = False) -> list[Ranking]:
    """Rankings of a file in any format we know, told by the columns of each row.

    Ours and trl's (`docs/data.md`), Anthropic HH, OpenAssistant trees (nested, or one message a row), Label Studio's
    JSON export of Pairwise and Ranker labels, Argilla's records with ranking or label questions. Raises InputError with
    file and line for a row nobody could rank, unless such rows are skipped.
    """
    messages: dict[str, dict[str, Any]] = {}

    def parse(row: dict[str, Any]) -> list[Ranking]:
        if "message_id" in row and "parent_id" in row and "text" in row:
            messages[str(row["message_id"])] = row
            return []
        return [_rankable(ranking) for ranking in _rankings(row)]

    found = [ranking for rankings in read_rows(source, parse, skip_bad_rows) for ranking in rankings]
    found += [_rankable(ranking) for ranking in _flat_tree(messages)]
    if not found:
        raise InputError(f"{source}: no rankings in it")
    return found


def _rankable(ranking: Ranking) -> Ranking:
    if not 2 <= len(ranking.completions) <= MAX_ANSWERS:
        raise BadRow(f"{len(ranking.completions)} answers; between 2 and {MAX_ANSWERS} can be ranked")
    said = [*(message["content"] for message in as_messages(ranking.prompt)), *ranking.completions]
    if storable(said) != said:
        raise BadRow("the text holds a NUL character or half a surrogate pair, which databases cannot keep")
    if any(rank < 0 for rank in ranking.ranks):
        raise BadRow("a rank is negative; 0 is best")
    return ranking


def _rankings(row: dict[str, Any]) -> list[Ranking]:
    if isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]:
        return list(_tree(row["prompt"], []))
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):
        return list(_label_studio(row["data"], row["annotations"]))
    if isinstance(row.get("fields"), dict) and "responses" in row:
        return list(_argilla(row["fields"], _nested_responses(row["responses"])))
    flat = {name.removesuffix(".responses"): name for name in row if name.endswith(".responses")}
    if flat:
        return list(_argilla(row, _flat_responses(row, flat)))
    old = _old_responses(row)
    if old:
        return list(_argilla(row, old))
    return [ranking_of(row)]


# OpenAssistant


def _tree(node: dict[str, Any], before: list[Message]) -> Iterator[Ranking]:
    """The rankings in a tree of messages, each of the replies to one message of the prompter."""
    if node.get("deleted") or node.get("role") not in ROLES:
        return
    conversation = [*before, {"role": ROLES[node["role"]], "content": node["text"]}]
    replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if node["role"] != "assistant" and len(ranked) > 1:
        texts = tuple(reply["text"] for reply in ranked)
        yield Ranking(prompt=conversation, completions=texts, ranks=tuple(int(r["rank"]) for r in ranked))
    for reply in replies:
        yield from _tree(reply, conversation)


def _flat_tree(messages: dict[str, dict[str, Any]]) -> Iterator[Ranking]:
    roots: list[dict[str, Any]] = []
    for message in messages.values():
        message["replies"] = []
    for message in messages.values():
        parent = messages.get(str(message["parent_id"]))
        (roots if parent is None else parent["replies"]).append(message)
    for root in roots:
        yield from _tree(root, [])


# Label Studio


def _label_studio(data: dict[str, Any], annotations: Sequence[Any]) -> Iterator[Ranking]:
    """One ranking per annotation that was not cancelled and holds a Pairwise or a Ranker label."""
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("completed_by", "")
        who = who.get("email") or who.get("id", "") if isinstance(who, dict) else who
        labeler = f"label-studio {who}".strip()
        for label in annotation.get("result") or ():
            if label.get("type") == "pairwise":
                yield _pairwise(data, label, labeler)
            elif label.get("type") == "ranker":
                yield _ranker(data, label, labeler)


def _pairwise(data: dict[str, Any], label: dict[str, Any], labeler: str) -> Ranking:
    names = [name.strip() for name in str(label.get("to_name", "")).split(",")]
    prompt = _prompt_field(data)
    if not all(name in data for name in names) or len(names) != 2:
        # The tags may be called otherwise than the columns they show: then the two texts besides the prompt are meant.
        names = [name for name, value in data.items() if isinstance(value, str) and name != prompt]
    if len(names) != 2:
        raise BadRow(f"cannot tell which two of {', '.join(data)} were compared")
    ranks = {"left": (0, 1), "right": (1, 0)}.get(label.get("value", {}).get("selected", ""))
    if ranks is None:
        raise BadRow("a pairwise label selects left or right")
    left, right = (str(data[name]) for name in names)
    return Ranking(
        prompt=_prompt(data, prompt), completions=(left, right), ranks=ranks, labeler=labeler
    )  # fmt: skip


def _ranker(data: dict[str, Any], label: dict[str, Any], labeler: str) -> Ranking:
    order = label.get("value", {}).get("ranker")
    if isinstance(order, dict) and len(order) == 1:
        (order,) = order.values()
    items = next(
        (value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)), None
    )  # fmt: skip
    if not isinstance(order, list) or items is None:
        raise BadRow("a ranker label needs a list of items and one order of their ids")
    texts = {str(item["id"]): item.get("body") or item.get("text") or item.get("html") for item in items}
    if sorted(texts) != sorted(map(str, order)):
        raise BadRow("the ranker's order does not name each item once")
    ranks = tuple(list(map(str, order)).index(name) for name in texts)
    prompt = _prompt(data, _prompt_field(data))
    return Ranking(prompt=prompt, completions=tuple(texts.values()), ranks=ranks, labeler=labeler)


# Argilla

Responses = list[tuple[str, str, Any]]  # (question, user, value) of submitted responses


def _nested_responses(responses: Any) -> Responses:
    """Of `records.to_json`: {question: [{value, user_id}]}."""
    return [
        (question, str(response.get("user_id") or ""), response["value"])
        for question, given in (responses or {}).items()
        for response in given
        if response.get("status", "submitted") in ("submitted", None)
    ]


def _flat_responses(row: dict[str, Any], columns: dict[str, str]) -> Responses:
    """Of `records.to_datasets` and `to_list(flatten=True)`: lists beside each other."""
    found = []
    for question, column in columns.items():
        values = row[column] or []
        users = row.get(f"{column}.users") or [""] * len(values)
        statuses = row.get(f"{column}.status") or ["submitted"] * len(values)
        for value, user, status in zip(values, users, statuses, strict=True):
            if status in ("submitted", None):
                found.append((question, str(user or ""), value))
    return found


def _old_responses(row: dict[str, Any]) -> Responses:
    """Of a FeedbackDataset on the hub: {question: [{user_id, value, status}]}."""
    found = []
    for question, given in row.items():
        if isinstance(given, list) and given and isinstance(given[0], dict) and "status" in given[0]:
            found += [
                (question, str(one.get("user_id") or ""), one["value"])
                for one in given
                if one["status"] == "submitted" and one.get("value") is not None
            ]
    return found


def _argilla(fields: dict[str, Any], responses: Responses) -> Iterator[Ranking]:
    """One ranking per response that orders fields, or chooses one of them as the best."""
    prompt = _prompt_field(fields)
    for question, user, value in responses:
        order = _order(value)
        if order is None and isinstance(value, str) and value in fields and value != prompt:
            order = {name: int(name != value) for name in _answer_fields(fields, prompt, question)}
        if order is None or len(order) < 2:
            continue
        missing = [name for name in order if name not in fields]
        if missing:
            raise BadRow(f"question {question} ranks {', '.join(missing)}, which the record does not hold")
        texts = tuple(str(fields[name]) for name in order)
        labeler = f"argilla {user}".strip()
        yield Ranking(
            prompt=_prompt(fields, prompt), completions=texts, ranks=tuple(order.values()), labeler=labeler
        )  # fmt: skip


def _order(value: Any) -> dict[str, int] | None:
    """Ranks by name of a ranking's value: names best first, or {value, rank} each."""
    if isinstance(value, dict) and "value" in value and "rank" in value:  # columns of a table
        value = [
            {"value": name, "rank": rank} for name, rank in zip(value["value"], value["rank"], strict=True)
        ]
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(one, dict) and "value" in one and "rank" in one for one in value):
        return {str(one["value"]): int(one["rank"]) for one in value}
    return (
        {name: rank for rank, name in enumerate(value)}
        if all(isinstance(one, str) for one in value)
        else None
    )


def _answer_fields(fields: dict[str, Any], prompt: str | None, question: str) -> list[str]:
    """Text fields that look like the chosen one's siblings: neither prompt nor bookkeeping."""
    return [
        name
        for name, value in fields.items()
        if isinstance(value, str) and name not in (prompt, question, "id", "_server_id", "status", "external_id")
        and "." not in name and not name.startswith("_")
    ]  # fmt: skip


def _prompt_field(fields: dict[str, Any]) -> str | None:
    return next((name for name in PROMPT_FIELDS if fields.get(name)), None)


def _prompt(fields: dict[str, Any], name: str | None) -> Prompt:
    if name is None:
        raise BadRow(f"no prompt: name a column one of {', '.join(PROMPT_FIELDS)}")
    return prompt_of({"prompt": fields[name]})

"""Exports of Label Studio. Where an export does not say which column an annotation means, the user is asked."""

from collections.abc import Iterator, Sequence
from typing import Any

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import ASKED, MAY_MATTER, prompt_of
from rlhf.data.formats.turns import spelled, text
from rlhf.data.rows import BadRow, Prompt, Ranking, Row

QUESTIONS = (*ASKED, "input", "messages", "chat", "conversation")
BOOKKEEPING = (
    "id",
    "uuid",
    "_server_id",
    "status",
    "external_id",
    "inserted_at",
    "updated_at",
    "source",
    "model",
)


def asked_of(fields: Row) -> Prompt:
    """The prompt of a record's fields, with the context that stands beside it. Raises BadRow for more that may matter."""
    if not any(name in fields for name in QUESTIONS):
        raise BadRow(f"no prompt: name a column one of {', '.join(QUESTIONS)}")
    chat = (
        {"prompt": fields["chat"]} if "chat" in fields and not any(name in fields for name in ASKED) else {}
    )
    prompt = prompt_of(fields.changed({**fields, **chat}))
    nothing_lost(
        prompt, fields.changed({name: fields[name] for name in fields if name not in fields.answers})
    )
    return prompt


def answers_of(fields: Row) -> list[str]:
    """The fields that hold the answers: those the user named, else the two alike in name, such as answer1 and answer2.

    Raises BadRow where that is a guess.
    """
    if fields.answers:
        missing = [name for name in fields.answers if name not in fields]
        if missing:
            raise BadRow(
                f"--answers names {', '.join(missing)}, which the record does not hold (it holds {', '.join(fields)})"
            )
        return list(fields.answers)
    asked = next((name for name in QUESTIONS if name in fields), None)
    others = [
        name
        for name, value in fields.items()
        if isinstance(value, str) and name != asked and name not in BOOKKEEPING and name not in MAY_MATTER
        and "." not in name and not name.startswith("_")
    ]  # fmt: skip
    alike = [name for name in others if any(name != other and _alike(name, other) for other in others)]
    if len(alike) >= 2 and len({_stem(name) for name in alike}) == 1:
        return alike
    if set(others) == {"left", "right"}:
        return ["left", "right"]
    raise BadRow(
        f"cannot tell which of {', '.join(others) or 'no text'} are the answers; name them: --answers NAME,NAME"
    )


def _stem(name: str) -> str:
    return name.rstrip("0123456789").rstrip("_- ") if name[-1].isdigit() else name[:-1].rstrip("_- ")


def _alike(one: str, other: str) -> bool:
    """answer1 and answer2, response-a and response-b: one stem, one sign more."""
    both_digits = one[-1].isdigit() and other[-1].isdigit()
    both_letters = one[-2:-1] in ("_", "-", " ") and other[-2:-1] in ("_", "-", " ")
    return (both_digits or both_letters) and _stem(one) == _stem(other) != ""


def label_studio(row: Row) -> Iterator[Ranking]:
    """One ranking per annotation that was not cancelled and holds a Pairwise, a Ranker or a Choices label."""
    if not isinstance(row["data"], dict) or not isinstance(row["annotations"], list):
        raise BadRow('"data" and "annotations" are not those of a Label Studio export')
    data = row.inner(row["data"])
    for annotation in row["annotations"]:
        if not isinstance(annotation, dict):
            raise BadRow(f"an annotation must be an object, not {spelled(annotation)}")
        if annotation.get("was_cancelled"):
            continue
        labels = [
            one
            for one in annotation.get("result") or ()
            if isinstance(one, dict) and f"{one.get('from_name')}".lower() not in row.ignored
        ]
        labeler = _annotator(annotation.get("completed_by"))
        readers = {"pairwise": _pairwise, "ranker": _ranker}
        known = [one for one in labels if one.get("type") in readers]
        if len(known) > 1:
            names = [f"{label.get('from_name')}" for label in known]
            raise BadRow(
                f"one annotation holds several comparisons ({', '.join(names)}); leave all but one out, as in --map ignore={names[0]}"
            )
        for label in known:
            yield readers[label["type"]](data, label, labeler)
        if not known:
            yield from _choices(data, labels, labeler)


def asked_label_studio(row: Row) -> Iterator[Prompt]:
    """What a Label Studio task shows as its prompt."""
    if not isinstance(row["data"], dict):
        raise BadRow('"data" is not that of a Label Studio export')
    yield asked_of(row.inner(row["data"]))


def _annotator(who: Any) -> str:
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return (
        f"label-studio {who}" if isinstance(who, str | int) and not isinstance(who, bool) else "label-studio"
    )


def _value(label: dict[str, Any]) -> dict[str, Any]:
    value = label.get("value")
    return value if isinstance(value, dict) else {}


def _pairwise(data: Row, label: dict[str, Any], labeler: str) -> Ranking:
    """Left is the first name of `to_name`; the tags may be called otherwise than the columns they show."""
    named = label.get("to_name")
    names = [name.strip().lower() for name in named.split(",")] if isinstance(named, str) else []
    if len(names) != 2 or not all(name in data for name in names) or data.left is not None:
        if data.left is None:
            raise BadRow(
                f"the export does not say which column was shown on the left ({', '.join(data)}); name it: --left NAME"
            )
        names = _left_first(data)
    ranks = {"left": (0, 1), "right": (1, 0)}.get(_selected(label))
    if ranks is None:
        raise BadRow("a pairwise label selects left or right")
    left, right = (text(data[name], name) for name in names)
    return Ranking(prompt=asked_of(data), completions=(left, right), ranks=ranks, labeler=labeler)


def _selected(label: dict[str, Any]) -> str:
    found = _value(label).get("selected")
    return found if isinstance(found, str) else ""


def _left_first(data: Row) -> list[str]:
    answers = answers_of(data)
    if data.left not in answers or len(answers) != 2:
        raise BadRow(
            f"--left {data.left} is none of the two answers {', '.join(answers)}; name them: --answers NAME,NAME"
        )
    return sorted(answers, key=lambda name: name != data.left)


def _ranker(data: Row, label: dict[str, Any], labeler: str) -> Ranking:
    order = _value(label).get("ranker")
    if isinstance(order, dict) and len(order) == 1:
        (order,) = order.values()
    lists = [value for value in data.values() if isinstance(value, list) and value and _is_items(value)]
    if not isinstance(order, list) or len(lists) != 1:
        raise BadRow("a ranker label needs one list of items and one order of their ids")
    texts = {_id(item["id"]): _body(item) for item in lists[0]}
    ordered = [_id(one) for one in order]
    if sorted(texts) != sorted(ordered):
        raise BadRow("the ranker's order does not name each item once")
    ranks = tuple(ordered.index(name) for name in texts)
    return Ranking(prompt=asked_of(data), completions=tuple(texts.values()), ranks=ranks, labeler=labeler)


def _is_items(value: Sequence[Any]) -> bool:
    return all(isinstance(one, dict) and "id" in one for one in value)


def _id(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _body(item: dict[str, Any]) -> str:
    return text(
        next((item[key] for key in ("body", "text", "html") if item.get(key)), None), "an item's body"
    )


def _choices(data: Row, labels: list[dict[str, Any]], labeler: str) -> Iterator[Ranking]:
    """A choice whose values are the names of the answers' columns chooses the best."""
    votes = []
    for label in labels:
        chosen = _value(label).get("choices")
        if (
            label.get("type") == "choices"
            and isinstance(chosen, list)
            and len(chosen) == 1
            and isinstance(chosen[0], str)
        ):
            votes.append(chosen[0].strip().lower())
    votes = [vote for vote in votes if vote in data]
    if not votes:
        return
    answers = answers_of(data)
    if len(votes) > 1 or votes[0] not in answers:
        raise BadRow(f"the choice of {', '.join(votes)} is none of one answer of {', '.join(answers)}")
    yield chosen_best(data, asked_of(data), answers, votes[0], labeler)


def chosen_best(fields: Row, prompt: Prompt, answers: Sequence[str], best: str, labeler: str) -> Ranking:
    """The ranking in which one answer is the best and the others tie."""
    texts = tuple(text(fields[name], name) for name in answers)
    return Ranking(
        prompt=prompt, completions=texts, ranks=tuple(int(name != best) for name in answers), labeler=labeler
    )

"""Records of Argilla, in the three shapes it exports them."""

from collections.abc import Iterator
from typing import Any

from rlhf.data.formats.label_studio import answers_of, asked_of, chosen_best
from rlhf.data.formats.turns import spelled, text, whole_number
from rlhf.data.rows import BadRow, Prompt, Ranking, Row

Responses = list[tuple[str, str, Any]]  # (question, user, value) of submitted responses
SUBMITTED = ("submitted", None)
SUGGESTED = "-suggestion"
FREE_TEXT = (
    "comment",
    "comments",
    "why",
    "reason",
    "reasons",
    "note",
    "notes",
    "explanation",
    "feedback",
    "rationale",
)


def records(row: Row) -> Iterator[Ranking]:
    """One ranking per response that orders fields, or chooses one of them as the best."""
    fields, responses = _of_record(row)
    prompt = asked_of(fields)
    orders = [
        (question, user, order)
        for question, user, value in responses
        if (order := _order(value)) is not None and len(order) > 1
    ]
    _one_question([question for question, _, _ in orders], "ranking")
    for question, user, order in orders:
        missing = [name for name in order if name not in fields]
        if missing:
            raise BadRow(f"a response ranks {', '.join(missing)}, which the record does not hold")
        _names_all(question, order, fields)
        texts = tuple(text(fields[name], name) for name in order)
        yield Ranking(prompt=prompt, completions=texts, ranks=tuple(order.values()), labeler=_labeler(user))
    if not orders:
        yield from _votes(fields, prompt, responses)


def asked_record(row: Row) -> Iterator[Prompt]:
    """What a record shows as its prompt."""
    yield asked_of(_of_record(row)[0])


def _votes(fields: Row, prompt: Prompt, responses: Responses) -> Iterator[Ranking]:
    """A label whose value is an answer's name is a vote; a comment that happens to equal one is none."""
    votes = [
        (question, user, value.lower())
        for question, user, value in responses
        if isinstance(value, str) and value.lower() in fields and question.lower() not in FREE_TEXT
    ]
    if not votes:
        return
    _one_question([question for question, _, _ in votes], "vote")
    answers = answers_of(fields)
    for _, user, best in votes:
        if best not in answers:
            raise BadRow(
                f"the vote for {best} is for none of the answers {', '.join(answers)}; name them: --answers NAME,NAME"
            )
        yield chosen_best(fields, prompt, answers, best, _labeler(user))


def _one_question(questions: list[str], kind: str) -> None:
    """Raises BadRow where the answers to several questions would be learned as one labeler's of the same answers."""
    if len(names := sorted({*questions})) > 1:
        raise BadRow(
            f"cannot tell which question is the {kind}: {', '.join(names)}; leave all but one out, as in --map ignore={names[0]}"
        )


def _names_all(question: str, order: dict[str, int], fields: Row) -> None:
    """Raises BadRow for an order of some of the answers: a choice of several labels looks like one."""
    try:
        answers = answers_of(fields)
    except BadRow:
        return  # nobody knows which the answers are
    if set(order) < {*answers}:
        left_out = [name for name in answers if name not in order]
        raise BadRow(
            f'"{question}" names {", ".join(order)} and not {", ".join(left_out)}: a choice of labels is no ranking; '
            f"--map ignore={question} leaves it out"
        )


def _labeler(user: str) -> str:
    return f"argilla {user}".strip()


def _of_record(row: Row) -> tuple[Row, Responses]:
    if isinstance(row.get("fields"), dict) and "responses" in row:
        return row.inner(row["fields"]), _nested(row)
    flat = {name.removesuffix(".responses"): name for name in row if name.endswith(".responses")}
    asked = {question: name for question, name in flat.items() if question not in row.ignored}
    responses = _flat(row, asked) if flat else _old(row)
    questions = {question for question, _, _ in responses} | set(flat)
    return row.changed({name: value for name, value in row.items() if name not in questions}), responses


def is_flat(row: Row) -> bool:
    """Whether a row is a record of a table of Argilla's, one that nobody answered too: its responses may be null."""
    return any(name.endswith(".responses") for name in (*row, *row.empty))


def is_record(row: Row) -> bool:
    """Whether a row is a record of Argilla's FeedbackDataset, whose questions are lists of responses with a status.

    The list is empty where nobody answered; then the column of its suggestion beside it tells the question.
    """
    asked = [name.removesuffix(SUGGESTED) for name in (*row, *row.empty) if name.endswith(SUGGESTED)]
    return any(_is_old(given) for given in row.values()) or any(
        name in row.empty or row.get(name) == [] for name in asked
    )


def _is_old(given: Any) -> bool:
    return (
        isinstance(given, list)
        and bool(given)
        and isinstance(given[0], dict)
        and {"status", "value"} <= given[0].keys()
    )


def _user(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _nested(row: Row) -> Responses:
    """Of `records.to_json`: {question: [{value, user_id}]}."""
    responses = row["responses"]
    if not isinstance(responses, dict):
        raise BadRow(f'"responses" must be an object of questions, not {spelled(responses)}')
    return [
        (question, _user(one.get("user_id")), one.get("value"))
        for question, given in responses.items()
        if question.lower() not in row.ignored
        for one in (given if isinstance(given, list) else ())
        if isinstance(one, dict) and one.get("status", "submitted") in SUBMITTED
    ]


def _flat(row: Row, columns: dict[str, str]) -> Responses:
    """Of `records.to_datasets` and `to_list(flatten=True)`: lists beside each other."""
    found = []
    for question, column in columns.items():
        values = _list(row, column)
        users = _list(row, f"{column}.users") or [None] * len(values)
        statuses = _list(row, f"{column}.status") or ["submitted"] * len(values)
        if not len(values) == len(users) == len(statuses):
            raise BadRow(f'"{column}" and its users and statuses differ in number')
        for value, user, status in zip(values, users, statuses, strict=True):
            if status in SUBMITTED:
                found.append((question, _user(user), value))
    return found


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name) or []
    if not isinstance(value, list):
        raise BadRow(f'"{name}" must be a list, not {spelled(value)}')
    return value


def _old(row: Row) -> Responses:
    """Of a FeedbackDataset on the hub: {question: [{user_id, value, status}]}."""
    return [
        (question, _user(one.get("user_id")), one["value"])
        for question, given in row.items()
        if _is_old(given)
        for one in given
        if isinstance(one, dict) and one.get("status") == "submitted" and one.get("value") is not None
    ]


def _order(value: Any) -> dict[str, int] | None:
    """Ranks by name of a ranking's value: names best first, or {value, rank} each."""
    if (
        isinstance(value, dict)
        and isinstance(value.get("value"), list)
        and isinstance(value.get("rank"), list)
    ):
        if len(value["value"]) != len(value["rank"]):
            raise BadRow("a ranking's values and ranks differ in number")
        value = [
            {"value": name, "rank": rank} for name, rank in zip(value["value"], value["rank"], strict=True)
        ]
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(one, str) for one in value):
        return {name.lower(): rank for rank, name in enumerate(value)}
    ranks = {}
    for one in value:
        rank = whole_number(one.get("rank")) if isinstance(one, dict) else None
        if rank is None or not isinstance(one.get("value"), str):
            return None
        ranks[one["value"].lower()] = rank
    return ranks

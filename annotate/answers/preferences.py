"""What a reward model learns from answers: orders that people gave, and those that their feedback implies."""

import json
from collections.abc import Iterable

from sqlalchemy import Connection, select

from annotate.answers.choice import Choice
from annotate.answers.chosen import chosen_annotations
from annotate.answers.snapshots import StoredAnswer, ids_in, stored_answers
from annotate.store.schema import Annotation, Batch, Labeler, Task
from annotate.work.batches import RANKED
from rlhf.data import Ranking
from rlhf.data.formats.lists import ranks_by_score


def rankings(connection: Connection, choice: Choice, snapshot: str | None = None) -> list[Ranking]:
    """`preferences` of the answers that stand, or of a snapshot's whether they still stand or not."""
    if snapshot is None:
        ids = chosen_annotations(connection, choice)
    else:
        ids = ids_in(connection, snapshot)
        if choice.batch is not None or not choice.include_simulated:
            ids = sorted(set(ids) & _ever_given(connection, choice))
    return preferences(stored_answers(connection, ids))


def preferences(given: Iterable[StoredAnswer]) -> list[Ranking]:
    """Rankings as they were given, a better version over the answer it betters, higher ratings over lower ones.

    What one person rated in one batch under one prompt makes one ranking, after all others, a chat's thumbs with it;
    where all got the same rating nothing is said of an order.
    """
    found: list[Ranking] = []
    ratings: dict[str, list[StoredAnswer]] = {}
    for answer in given:
        if answer.row.kind in RANKED and answer.ranks:  # none acceptable may come without an order
            found.append(answer.ranking())
        elif answer.row.kind == "demonstrate":
            found += _rewrite(answer)
        elif answer.row.kind == "rate":
            who = json.dumps([answer.batch, answer.labeler, answer.prompt])
            ratings.setdefault(who, []).append(answer)
    return found + [ranking for rated in ratings.values() for ranking in _rated(rated)]


def _rewrite(answer: StoredAnswer) -> list[Ranking]:
    better = answer.row.demonstration
    worse = [text for text in answer.completions if text.strip() != better.strip()]
    if not worse:
        return []
    ranks = (0, *(1 for _ in worse))
    return [Ranking(prompt=answer.prompt, completions=(better, *worse), ranks=ranks, labeler=answer.labeler)]


def _rated(rated: list[StoredAnswer]) -> list[Ranking]:
    latest = {
        text: item.rating
        for answer in rated
        for text, item in zip(answer.completions, answer.items, strict=True)
    }
    if len(set(latest.values())) < 2:
        return []
    ranks = ranks_by_score(list(latest.values()))
    first = rated[0]
    return [
        Ranking(
            prompt=first.prompt,
            completions=tuple(latest),
            ranks=ranks,
            labeler=first.labeler,
            ratings=tuple(latest.values()),
        )
    ]


def _ever_given(connection: Connection, choice: Choice) -> set[int]:
    query = (
        select(Annotation.id)
        .join(Task, Task.id == Annotation.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Labeler, Labeler.id == Annotation.labeler_id)
    )
    if choice.batch is not None:
        query = query.where(Batch.name == choice.batch)
    if not choice.include_simulated:
        query = query.where(Labeler.origin != "simulated")
    return set(connection.execute(query).scalars())

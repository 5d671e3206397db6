"""Which answers a snapshot, an export or a figure is about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, and_, or_, select
from sqlalchemy.orm import aliased

from annotate.store.schema import COUNTED, Annotation, Batch, Labeler, RankingItem, Task
from annotate.work.asks import Asks, asks_from
from annotate.work.batches import RANKED, batch_id

DAY_S = 86_400.0
_Item = aliased(RankingItem)
_items = select(_Item.place).where(_Item.annotation_id == Annotation.id)
_ordered = or_(~Annotation.none_acceptable, _items.where(_Item.rank.is_not(None)).exists())
# Answers that order completions: those asked for it who gave one, and ratings of several completions.
ORDERING = or_(
    and_(Annotation.kind.in_(RANKED), _ordered),
    and_(Annotation.kind == "rate", _items.where(_Item.place == 1).exists()),
)
RATING = _items.where(_Item.rating.is_not(None)).exists()  # answers with a rating, whatever else they say


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Answers that stand, gold questions and skips aside, narrowed down.

    since, until: seconds since 1970, until not included. labelers: names, all where empty. min_agreement: share in
    [0, 1] of the judgements on a task's pairs on which its labelers agree; a task only one person ranked has none and
    is left out. adjudicated: a lead's verdict takes the place of the answers it overrules.
    """

    batch: str | None = None
    since: float | None = None
    until: float | None = None
    labelers: tuple[str, ...] = ()
    include_simulated: bool = True
    min_agreement: float | None = None
    adjudicated: bool = False


def midnight(day: date | None, later_s: float = 0.0) -> float | None:
    """When a day begins (UTC), in seconds since 1970, and so many seconds later."""
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + later_s


def standing(connection: Connection, choice: Choice, query: Any, *, gold: bool = False) -> Any:
    """The query over Annotation, joined with its Task and Labeler and narrowed to labelers' answers of the choice."""
    query = query.join(Task, Task.id == Annotation.task_id).join(Labeler, Labeler.id == Annotation.labeler_id)
    query = query.where(COUNTED, Task.gold.is_not(None) if gold else Task.gold.is_(None))
    if choice.batch is not None:
        query = query.where(Task.batch_id == batch_id(connection, choice.batch))
    if choice.since is not None:
        query = query.where(Annotation.created >= choice.since)
    if choice.until is not None:
        query = query.where(Annotation.created < choice.until)
    if choice.labelers:
        query = query.where(Labeler.name.in_(choice.labelers))
    return query if choice.include_simulated else query.where(Labeler.origin != "simulated")


def asks_by_batch(connection: Connection) -> dict[int, Asks]:
    """What every batch asks, by its id."""
    return {batch: asks_from(asks) for batch, asks in connection.execute(select(Batch.id, Batch.asks))}


def chunks(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """The values in slices that fit a database's limit on parameters."""
    return (values[start : start + size] for start in range(0, len(values), size))

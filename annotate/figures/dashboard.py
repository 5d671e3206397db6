"""What a lead wants to know of the work: how much, how consistent, how careful.

Functions take a Choice, or the ballots of one, which are read once for all of them.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Text, cast, func, select

from annotate.answers import agreement
from annotate.answers.agreement import Agreement, Group, agreement_of, consensus_of
from annotate.answers.ballots import Ballot, group_by_task
from annotate.answers.choice import Choice, standing
from annotate.store.database import Database
from annotate.store.schema import Annotation, Completion, Labeler, RankingItem, Task, TaskCompletion
from annotate.work.batches import RANKED
from annotate.work.history import items_of, ranks_in
from rlhf.intervals import interval_by

CHARACTERS_PER_S = 90.0  # nobody reads faster than this, about 900 words a minute
LEAST_S = 1.0


@dataclass(frozen=True)
class DayCount:
    """Answers of one labeler on one day (UTC), skips aside."""

    day: str
    labeler: str
    answers: int


@dataclass(frozen=True)
class Share:
    """right of pairs with the share's 95 % interval by prompt; None with the reason where there are no pairs."""

    share: float | None
    ci95: tuple[float, float] | None
    right: int
    pairs: int
    undefined: str = ""


def share_of(rows: Sequence[tuple[Hashable, int, int]], reason: str) -> Share:
    """The share of rows (prompt, right, pairs), or the reason why there is none."""
    prompts, right, pairs = zip(*rows, strict=True) if rows else ((), (), ())
    if not sum(pairs):
        return Share(None, None, 0, 0, reason)
    return Share(sum(right) / sum(pairs), interval_by(prompts, right, pairs), sum(right), sum(pairs))


@dataclass(frozen=True)
class PositionBias:
    """earlier: share of decided pairs of answers in which the one shown earlier won; p_value of that being chance."""

    earlier: float | None
    p_value: float | None
    rankings: int
    undefined: str = ""


@dataclass(frozen=True)
class LabelerTime:
    """Answers, median seconds on a task, and how many decisions were implausibly fast."""

    answers: int
    median_s: float
    fast: int


@dataclass(frozen=True)
class FastDecision:
    """An answer that took less time than reading the completions at CHARACTERS_PER_S takes."""

    annotation_id: int
    task_id: int
    labeler: str
    took_s: float
    plausible_s: float


def day_of(seconds: float) -> str:
    """The day (UTC) of a time in seconds since 1970, as 2026-01-31."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def throughput(database: Database, choice: Choice) -> list[DayCount]:
    """Answers by day and labeler, oldest day first."""
    with database.read() as connection:
        query = standing(connection, choice, select(Labeler.name, Annotation.created))
        counts = Counter((day_of(created), name) for name, created in connection.execute(query))
    return [DayCount(day, name, number) for (day, name), number in sorted(counts.items())]


def agreement_overall(given: Sequence[Ballot]) -> Agreement:
    """Agreement between all labelers."""
    return agreement_of(group_by_task(given).values())


def agreement_by_labeler(given: Sequence[Ballot]) -> dict[str, Agreement]:
    """Agreement of each labeler with everybody else who ranked the same task."""
    return agreement.agreement_by_labeler(group_by_task(given).values())


def agreement_over_time(given: Sequence[Ballot]) -> dict[str, Agreement]:
    """Agreement by day (UTC), oldest first; a task counts on the day on which its last answer came."""
    last: dict[int, float] = {}
    for ballot in given:
        last[ballot.task] = max(ballot.created, last.get(ballot.task, 0.0))
    by_day: dict[str, list[Group]] = defaultdict(list)
    for task, group in group_by_task(given).items():
        by_day[day_of(last[task])].append(group)
    return {day: agreement_of(groups) for day, groups in sorted(by_day.items())}


def against_consensus(given: Sequence[Ballot]) -> dict[str, Share]:
    """For each labeler the share of pairs judged as most of the other labelers judge them."""
    reason = "undefined because no pair has other labelers who are of one mind"
    return {
        name: share_of(rows, reason)
        for name, rows in sorted(consensus_of(group_by_task(given).values()).items())
    }


def gold_accuracy(database: Database, choice: Choice) -> dict[str, Share]:
    """For each labeler the share of pairs in gold questions put as the known ranks put them (ties in those aside)."""
    with database.read() as connection:
        columns = (Annotation.id, Labeler.name, Task.prompt_id, Task.gold)
        query = standing(connection, choice, select(*columns), gold=True)
        rows = connection.execute(query.where(Annotation.kind.in_(RANKED))).all()
        items = items_of(connection, [row.id for row in rows])
    found: dict[str, list[tuple[Hashable, int, int]]] = defaultdict(list)
    for row in rows:
        given = ranks_in(items.get(row.id, []))
        known = [(i, j) for i in range(len(given)) for j in range(len(given)) if row.gold[i] < row.gold[j]]
        if known:
            right = sum(given[i] < given[j] for i, j in known)
            found[row.name].append((row.prompt_id, right, len(known)))
    return {name: share_of(found[name], "") for name in sorted(found)}


def position_bias(given: Sequence[Ballot]) -> PositionBias:
    """Whether answers shown earlier win more often than chance.

    Each prompt's decided pairs are summed (earlier wins minus losses); where the order was random, every sum is as likely
    with the other sign, so z = Σ/√Σ² is about normal (a sign-flip test by prompt). Other orders are left out.
    """
    sums: dict[int, int] = defaultdict(int)
    earlier = decided = used = 0
    for ballot in given:
        if not (ballot.shown_order and ballot.at_random) or ballot.simulated:
            continue
        used += 1
        ranks = np.array(ballot.ranks)[list(ballot.shown_order)]
        first, second = np.triu_indices(len(ranks), 1)
        won, lost = int((ranks[first] < ranks[second]).sum()), int((ranks[first] > ranks[second]).sum())
        earlier, decided = earlier + won, decided + won + lost
        sums[ballot.prompt] += won - lost
    squares = sum(value * value for value in sums.values())
    if not squares:
        return PositionBias(
            None,
            None,
            used,
            "undefined because no person decided a pair that is known to be shown in random order",
        )
    z = sum(sums.values()) / math.sqrt(squares)
    return PositionBias(earlier / decided, math.erfc(abs(z) / math.sqrt(2)), used)


def _decisions(database: Database, choice: Choice) -> list[tuple[Any, float, float]]:
    """(row, seconds it took, seconds that are plausible) of people's decisions whose time is known."""
    read = (
        select(TaskCompletion.task_id, func.sum(func.length(Completion.text)).label("characters"))
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .group_by(TaskCompletion.task_id)
        .subquery()
    )
    columns = (Annotation.id, Annotation.task_id, Labeler.name, Annotation.time_s, Annotation.lease_s)
    found = []
    with database.read() as connection:
        query = standing(connection, choice, select(*columns, read.c.characters))
        query = query.join(read, read.c.task_id == Annotation.task_id)
        query = query.where(Annotation.origin == "label", Labeler.origin == "person")
        for row in connection.execute(query.order_by(Annotation.id)):
            # The page measures time_s; no honest page measures more than has passed since the lease.
            took = min((value for value in (row.time_s, row.lease_s) if value), default=0.0)
            if took:
                found.append((row, took, max(LEAST_S, row.characters / CHARACTERS_PER_S)))
    return found


def fast_decisions(database: Database, choice: Choice) -> list[FastDecision]:
    """People's decisions too fast to have read the answers, fastest against what is plausible first."""
    fast = [
        (row, took, plausible) for row, took, plausible in _decisions(database, choice) if took < plausible
    ]
    fast.sort(key=lambda decision: decision[1] / decision[2])
    return [FastDecision(row.id, row.task_id, row.name, took, plausible) for row, took, plausible in fast]


def labeler_times(database: Database, choice: Choice) -> dict[str, LabelerTime]:
    """Median time and fast decisions of each person."""
    times: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for row, took, plausible in _decisions(database, choice):
        times[row.name].append((took, took < plausible))
    return {
        name: LabelerTime(
            len(given), statistics.median(took for took, _ in given), sum(fast for _, fast in given)
        )
        for name, given in sorted(times.items())
    }


def flag_rates(database: Database, choice: Choice) -> dict[str, tuple[int, int]]:
    """For each flag that was set: on how many of the judged answers, and how many were judged."""
    with database.read() as connection:
        query = standing(connection, choice, select(func.count()).select_from(Annotation))
        total = connection.execute(
            query.join(RankingItem, RankingItem.annotation_id == Annotation.id)
        ).scalar_one()
        query = standing(connection, choice, select(RankingItem.flags).select_from(Annotation))
        query = query.join(RankingItem, RankingItem.annotation_id == Annotation.id)
        flagged = query.where(cast(RankingItem.flags, Text) != "[]")
        counts = Counter(flag for flags in connection.execute(flagged).scalars() for flag in flags)
    return {flag: (number, total) for flag, number in counts.most_common()}

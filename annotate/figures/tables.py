"""The lead's figures as tables: one row type for the page, the CSV behind it and the picture."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from annotate.answers.agreement import Agreement
from annotate.answers.ballots import ballots
from annotate.answers.choice import Choice
from annotate.answers.export import cell
from annotate.answers.ratings import ratings_given
from annotate.figures import dashboard, ratings
from annotate.figures.strengths import StrengthTable, strengths
from annotate.store.database import Database
from annotate.store.schema import Labeler


@dataclass(frozen=True)
class Table:
    """Columns and rows; None where a number is undefined, with the reason in `note`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


FIGURES = (
    "agreement", "position", "labelers", "throughput", "flags", "agreement_by_labeler", "consensus", "gold", "times",
    "agreement_over_time", "strengths", "ratings", "ratings_by_labeler", "fast",
)  # fmt: skip
AGREEMENT = ("agreement", "decided", "alpha", "alpha_low", "alpha_high", "pairs", "decided_pairs", "note")


def _agreement_row(found: Agreement) -> tuple[Any, ...]:
    low, high = found.alpha_ci95 or (None, None)
    return (
        found.percent,
        found.decided,
        found.alpha,
        low,
        high,
        found.pairs,
        found.decided_pairs,
        found.undefined,
    )


def _agreement(found: Agreement) -> Table:
    return Table(AGREEMENT, (_agreement_row(found),), found.undefined)


def _agreements(name: str, found: dict[str, Agreement]) -> Table:
    return Table((name, *AGREEMENT), tuple((key, *_agreement_row(value)) for key, value in found.items()))


def _throughput(found: Sequence[dashboard.DayCount]) -> Table:
    return Table(("day", "labeler", "answers"), tuple((row.day, row.labeler, row.answers) for row in found))


def _shares(found: dict[str, dashboard.Share], note_if_none: str = "") -> Table:
    rows = tuple(
        (name, share.share, *(share.ci95 or (None, None)), share.right, share.pairs, share.undefined)
        for name, share in found.items()
    )
    return Table(
        ("labeler", "share", "share_low", "share_high", "right", "pairs", "note"),
        rows,
        "" if rows else note_if_none,
    )


def _times(found: dict[str, dashboard.LabelerTime]) -> Table:
    rows = tuple((name, row.answers, row.median_s, row.fast) for name, row in found.items())
    return Table(("labeler", "answers", "median_s", "fast"), rows)


def _fast(found: Sequence[dashboard.FastDecision]) -> Table:
    columns = ("annotation", "task", "labeler", "took_s", "plausible_s")
    rows = ((row.annotation_id, row.task_id, row.labeler, row.took_s, row.plausible_s) for row in found)
    return Table(columns, tuple(rows))


def _flags(found: dict[str, tuple[int, int]]) -> Table:
    rows = tuple((flag, number / total, number, total) for flag, (number, total) in found.items())
    return Table(("flag", "rate", "answers", "judged"), rows)


def _position(found: dashboard.PositionBias) -> Table:
    row = (found.earlier, found.p_value, found.rankings)
    return Table(("earlier_won", "p_value", "rankings"), (row,), found.undefined)


def _strengths(found: StrengthTable) -> Table:
    columns = ("checkpoint", "log_strength", "low", "high", "wins", "ties", "losses")
    rows = ((r.checkpoint, r.log_strength, *r.ci95, r.wins, r.ties, r.losses) for r in found.rows)
    return Table(columns, tuple(rows), found.undefined)


def _ratings(found: Sequence[ratings.MeanRating]) -> Table:
    columns = ("checkpoint", "scale", "mean", "low", "high", "answers")
    rows = ((r.checkpoint, r.scale, r.mean, *(r.ci95 or (None, None)), r.answers) for r in found)
    return Table(columns, tuple(rows))


def _ratings_by_labeler(found: Sequence[ratings.LabelerRatings]) -> Table:
    rows = ((r.labeler, r.scale, r.mean, r.apart, r.answers) for r in found)
    return Table(("labeler", "scale", "mean", "apart", "answers"), tuple(rows))


def _labelers(found: dict[str, Table], simulated: Collection[str]) -> Table:
    """What the other figures say of each labeler, the busiest first."""
    answers: Counter[str] = Counter()
    for _, labeler, number in found["throughput"].rows:
        answers[labeler] += number
    of = {
        "median_s": by_labeler(found["times"], "median_s"),
        "fast": by_labeler(found["times"], "fast"),
        "alpha": by_labeler(found["agreement_by_labeler"], "alpha"),
        "with_most": by_labeler(found["consensus"], "share"),
        "gold": by_labeler(found["gold"], "share"),
    }
    rows = tuple(
        (name, name in simulated, number, *(known.get(name) for known in of.values()))
        for name, number in answers.most_common()
    )
    return Table(("labeler", "simulated", "answers", *of), rows)


def tables(database: Database, choice: Choice) -> dict[str, Table]:
    """Every figure of FIGURES over a choice, in that order; seconds for a hundred thousand rankings."""
    with database.read() as connection:
        given = ballots(connection, choice)
        rated = ratings_given(connection, choice)
        simulated = set(
            connection.execute(select(Labeler.name).where(Labeler.origin == "simulated")).scalars()
        )
    gold = dashboard.gold_accuracy(database, choice)
    found = {
        "throughput": _throughput(dashboard.throughput(database, choice)),
        "agreement": _agreement(dashboard.agreement_overall(given)),
        "agreement_by_labeler": _agreements("labeler", dashboard.agreement_by_labeler(given)),
        "agreement_over_time": _agreements("day", dashboard.agreement_over_time(given)),
        "consensus": _shares(dashboard.against_consensus(given)),
        "gold": _shares(gold, "undefined because nobody answered a gold question"),
        "times": _times(dashboard.labeler_times(database, choice)),
        "fast": _fast(dashboard.fast_decisions(database, choice)),
        "flags": _flags(dashboard.flag_rates(database, choice)),
        "position": _position(dashboard.position_bias(given)),
        "strengths": _strengths(strengths(database, choice)),
        "ratings": _ratings(ratings.ratings_by_checkpoint(rated)),
        "ratings_by_labeler": _ratings_by_labeler(ratings.ratings_by_labeler(rated)),
    }
    found["labelers"] = _labelers(found, simulated)
    return {name: found[name] for name in FIGURES}


def as_csv(table: Table) -> str:
    """The table as CSV; a text that a spreadsheet would take for a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(table.columns)
    writer.writerows([_cell(value) for value in row] for row in table.rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else "" if value is None else value


def shown(table: Table) -> list[list[str]]:
    """Rows as a page shows them: shares in per cent, other numbers short, a dash where there is none."""
    return [
        [_shown(name, value) for name, value in zip(table.columns, row, strict=True)] for row in table.rows
    ]


SHARES = frozenset(
    {"agreement", "decided", "share", "share_low", "share_high", "rate", "earlier_won", "with_most", "gold"}
)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "✓" if value else ""
    if isinstance(value, float):
        return f"{value:.1%}" if name in SHARES else f"{value:.3g}" if name == "p_value" else f"{value:z.2f}"
    return str(value)


def column(table: Table, name: str) -> Sequence[Any]:
    """One column's values."""
    place = table.columns.index(name)
    return [row[place] for row in table.rows]


def by_labeler(table: Table, name: str) -> dict[str, Any]:
    """One column's values by labeler."""
    return dict(zip(column(table, "labeler"), column(table, name), strict=True))

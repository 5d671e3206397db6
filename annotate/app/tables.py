"""The lead's figures as tables: one row type for the page, the CSV behind it and the picture."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from annotate import dashboard
from annotate.agreement import Agreement
from annotate.choice import Choice
from annotate.database import Database
from annotate.export import cell
from annotate.strengths import strengths


@dataclass(frozen=True)
class Table:
    """Columns and rows; None where a number is undefined, with the reason in `note`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


AGREEMENT = ("agreement", "decided", "alpha", "alpha_low", "alpha_high", "pairs", "note")


def _agreement_row(found: Agreement) -> tuple[Any, ...]:
    low, high = found.alpha_ci95 or (None, None)
    return (found.percent, found.decided, found.alpha, low, high, found.pairs, found.undefined)


def _agreement(database: Database, choice: Choice) -> Table:
    found = dashboard.agreement_overall(database, choice)
    return Table(AGREEMENT, (_agreement_row(found),), found.undefined)


def _agreements(name: str, found: dict[str, Agreement]) -> Table:
    return Table((name, *AGREEMENT), tuple((key, *_agreement_row(value)) for key, value in found.items()))


def _by_labeler(database: Database, choice: Choice) -> Table:
    return _agreements("labeler", dashboard.agreement_by_labeler(database, choice))


def _over_time(database: Database, choice: Choice) -> Table:
    return _agreements("day", dashboard.agreement_over_time(database, choice))


def _throughput(database: Database, choice: Choice) -> Table:
    rows = dashboard.throughput(database, choice)
    return Table(("day", "labeler", "answers"), tuple((row.day, row.labeler, row.answers) for row in rows))


def _shares(found: dict[str, dashboard.Share]) -> Table:
    rows = tuple(
        (name, share.share, share.right, share.pairs, share.undefined) for name, share in found.items()
    )
    return Table(("labeler", "share", "right", "pairs", "note"), rows)


def _consensus(database: Database, choice: Choice) -> Table:
    return _shares(dashboard.against_consensus(database, choice))


def _gold(database: Database, choice: Choice) -> Table:
    found = _shares(dashboard.gold_accuracy(database, choice))
    return (
        found if found.rows else Table(found.columns, (), "undefined because nobody answered a gold question")
    )


def _times(database: Database, choice: Choice) -> Table:
    found = dashboard.labeler_times(database, choice)
    rows = tuple((name, row.answers, row.median_s, row.fast) for name, row in found.items())
    return Table(("labeler", "answers", "median_s", "fast"), rows)


def _fast(database: Database, choice: Choice) -> Table:
    columns = ("annotation", "task", "labeler", "took_s", "plausible_s")
    found = dashboard.fast_decisions(database, choice)
    rows = ((row.annotation_id, row.task_id, row.labeler, row.took_s, row.plausible_s) for row in found)
    return Table(columns, tuple(rows))


def _flags(database: Database, choice: Choice) -> Table:
    found = dashboard.flag_rates(database, choice)
    rows = tuple((flag, number / total, number, total) for flag, (number, total) in found.items())
    return Table(("flag", "rate", "answers", "judged"), rows)


def _position(database: Database, choice: Choice) -> Table:
    found = dashboard.position_bias(database, choice)
    return Table(
        ("earlier_won", "p_value", "rankings"),
        ((found.earlier, found.p_value, found.rankings),),
        found.undefined,
    )


def _strengths(database: Database, choice: Choice) -> Table:
    found = strengths(database, choice)
    columns = ("checkpoint", "log_strength", "low", "high", "wins", "ties", "losses")
    rows = ((r.checkpoint, r.log_strength, *r.ci95, r.wins, r.ties, r.losses) for r in found.rows)
    return Table(columns, tuple(rows), found.undefined)


TABLES: dict[str, Callable[[Database, Choice], Table]] = {
    "throughput": _throughput,
    "agreement": _agreement,
    "agreement_by_labeler": _by_labeler,
    "agreement_over_time": _over_time,
    "consensus": _consensus,
    "gold": _gold,
    "times": _times,
    "fast": _fast,
    "flags": _flags,
    "position": _position,
    "strengths": _strengths,
}


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


SHARES = frozenset({"agreement", "decided", "share", "rate", "earlier_won"})


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1%}" if name in SHARES else f"{value:.3g}" if name == "p_value" else f"{value:.2f}"
    return str(value)


def column(table: Table, name: str) -> Sequence[Any]:
    """One column's values."""
    place = table.columns.index(name)
    return [row[place] for row in table.rows]

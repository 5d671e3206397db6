"""What a lead looks at: batches and how far they are, figures, disagreements. The forms beside them are in forms.py."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from annotate.app.identity import Db
from annotate.app.lead.api import choice
from annotate.app.lead.chosen import Chosen
from annotate.app.pages import LEAD_PATH, language_of, shell
from annotate.app.texts import Texts, texts
from annotate.figures.charts import CHARTS
from annotate.figures.computed import NOTHING, Computed, Result
from annotate.figures.tables import Table, shown, tables
from annotate.store.database import Database
from annotate.work.batches import BatchOverview, overview
from annotate.work.live import queue_counts

router = APIRouter(include_in_schema=False)
ROWS_SHOWN = 200
# Figures of one row, which are said in sentences: the text of each and the number without which it says nothing.
SENTENCES = {
    "agreement": (("agreement_is", "agreement"), ("alpha_is", "alpha")),
    "position": (("position_is", "earlier_won"),),
}
WIDE = frozenset({"labelers"})  # shown over the whole width, and unfolded


@router.get(LEAD_PATH)
def batches(request: Request, database: Db) -> Response:
    def content() -> dict[str, Any]:
        return {"batches": [(row, _coming(database, row)) for row in overview(database)]}

    return shell(request, "batches", "lead_batches.jinja", lead_only=True, content=content)


def _coming(database: Database, row: BatchOverview) -> dict[str, int] | None:
    """Prompts of a live batch that are still to come, and those given up; None for other batches."""
    if not row.live:
        return None
    found = queue_counts(database, row.name)
    return {"coming": found["waiting"] + found["wanted"] + found["claimed"], "failed": found["failed"]}


@router.get(f"{LEAD_PATH}/dashboard")
def dashboard(
    request: Request,
    database: Db,
    batch: str = "",
    since: str = "",
    until: str = "",
    people_only: bool = False,
) -> Response:
    """The figures that were counted last; the page's script asks again while newer ones are on their way."""
    chosen = Chosen(batch, since.strip(), until.strip(), people_only)

    def content() -> dict[str, Any]:
        words = texts(language_of(request))
        kinds = {row.name: row.kind for row in overview(database)}
        problem = chosen.problem(kinds, words["lead"])
        found = NOTHING if problem else _counted(request.app.state.computed, database, chosen)
        at = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return {
            "chosen": chosen,
            "kinds": kinds,
            "problem": problem,
            "current": found.current or bool(problem),
            "at": at,
            "figures": [figure(name, table, words) for name, table in (found.value or {}).items()],
            "query": urlencode(chosen.query()),
        }

    return shell(request, "dashboard", "lead_dashboard.jinja", lead_only=True, content=content)


def _counted(computed: Computed, database: Database, chosen: Chosen) -> Result:
    first, last = (date.fromisoformat(day) if day else None for day in (chosen.since, chosen.until))
    answers = choice(chosen.batch or None, first, last, [], chosen.people_only, None, False)
    return computed.soon(answers, lambda: tables(database, answers))


def figure(name: str, table: Table, words: Texts) -> dict[str, Any]:
    """A figure as the page shows it: title, note where it is undefined, sentences or rows, whether there is a picture."""
    rows = () if name in SENTENCES else table.rows
    return {
        "name": name,
        "title": words["figures"][name],
        "note": table.note,
        "empty": not table.rows and not table.note,
        "sentences": _sentences(name, table, words["figures"]),
        "picture": bool(table.rows) and name in CHARTS,
        "wide": name in WIDE,
        "columns": [words["columns"][column] for column in table.columns],
        "rows": shown(replace(table, rows=rows[:ROWS_SHOWN])),
        "total": len(rows),
    }


def _sentences(name: str, table: Table, said: Mapping[str, str]) -> list[str]:
    """One row of numbers in words, those left out that are undefined."""
    if not table.rows:
        return []
    values = dict(zip(table.columns, shown(table)[0], strict=True))
    return [said[text].format(**values) for text, number in SENTENCES.get(name, ()) if values[number] != "–"]


@router.get("/adjudicate")
def adjudicate(request: Request) -> Response:
    return shell(request, "adjudicate", lead_only=True)

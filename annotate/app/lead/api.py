"""REST endpoints of a lead: batches, figures, disagreements and verdicts, exports. Each asks for the role itself."""

import re
import shutil
import tempfile
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.background import BackgroundTask

from annotate.answers.adjudicate import (
    Disagreement,
    Place,
    adjudicate,
    disagreement_by_task,
    disagreements,
)
from annotate.answers.choice import DAY_S, Choice, midnight
from annotate.answers.export import Exported, export
from annotate.answers.importing import add_gold_questions
from annotate.app.identity import Db, Lead
from annotate.app.lead.new_batch import BatchIn, UploadIn, first_problem, flags_named, make_batch, task_of
from annotate.app.lead.people import PeopleIn, PersonIn, add_people, change_person, people_list
from annotate.app.payloads import AnswerIn, said_text, shown, submission, task_json
from annotate.app.work_api import view_of
from annotate.figures.computed import Computed
from annotate.figures.tables import FIGURES, Table, as_csv, tables
from annotate.labels import LabelStore
from annotate.store.accounts import Account
from annotate.store.database import Database
from annotate.work.asks import FLAGS
from annotate.work.batches import batch_settings, change_batch, overview
from annotate.work.webhooks import set_webhook
from rlhf.data import Ranking

router = APIRouter(prefix="/api/lead", tags=["lead"])
PLACE = r"^([01]:-?\d+(\.\d+)?(e-?\d+)?:\d+)?$"  # of a disagreement in their list


def choice(
    batch: str | None = None,
    since: Annotated[date | None, Query(description="first day, UTC")] = None,
    until: Annotated[date | None, Query(description="last day, UTC, included")] = None,
    labeler: Annotated[list[str], Query()] = [],  # noqa: B006
    people_only: bool = False,
    min_agreement: Annotated[float | None, Query(ge=0, le=1)] = None,
    adjudicated: bool = False,
) -> Choice:
    """Dependency: which answers a figure or an export is about."""
    return Choice(
        batch=batch or None,
        since=midnight(since),
        until=midnight(until, DAY_S),
        labelers=tuple(labeler),
        include_simulated=not people_only,
        min_agreement=min_agreement,
        adjudicated=adjudicated,
    )


Chosen = Annotated[Choice, Depends(choice)]


@router.get("/batches")
def batches(account: Lead, database: Db) -> dict[str, Any]:
    """Every batch: name, kind, tasks, finished, answers, wanted, open."""
    return {"batches": [row.__dict__ for row in overview(database)]}


class TaskIn(BaseModel):
    """A prompt (text, or messages with role and content) and its answers; gold: the known ranks of a gold question."""

    model_config = ConfigDict(extra="forbid")
    prompt: str | Annotated[list[dict[str, str]], Field(fail_fast=True)]
    completions: list[str] = Field(default=[], max_length=9)
    checkpoints: list[str] = Field(default=[], max_length=9)
    gold: list[int] | None = Field(default=None, max_length=9)
    priority: float = 0.0


class NewBatchIn(BatchIn):
    tasks: list[TaskIn] = Field(min_length=1, max_length=100_000, fail_fast=True)


@router.post("/batches", status_code=201)
def add_batch(request: Request, new: NewBatchIn, account: Lead) -> dict[str, Any]:
    """Make a batch of the tasks in the request."""
    return add_tasks_as_batch(request.app.state.store, new)


def add_tasks_as_batch(store: LabelStore, new: NewBatchIn) -> dict[str, Any]:
    """Make a batch of tasks with its settings."""
    tasks = [task_of(**task.model_dump()) for task in new.tasks]
    settings = new.settings()
    names = ("kind", "guidelines", "overlap", "asks", "quota", "task_order", "gold_every")
    values = {name: getattr(settings, name) for name in names}
    store.add_batch(settings.name, tasks, **values)
    return {"batch": settings.name, "tasks": len(tasks)}


@router.post("/upload", status_code=201)
def upload_batch(
    request: Request,
    account: Lead,
    database: Db,
    settings: Annotated[str, Form()],
    file: Annotated[UploadFile, File()],
) -> dict[str, Any]:
    """Make a batch of an uploaded file (what `rlhf labels import` reads); settings: JSON as for POST /batches.

    With `sample_from`, a checkpoint, the file holds prompts, which it answers `k` times each as tasks are opened.
    """
    try:
        new = UploadIn.model_validate_json(settings)
    except ValidationError as error:
        raise HTTPException(422, f"settings: {first_problem(error)}") from None
    sampler = request.app.state.sampler
    with tempfile.TemporaryDirectory() as folder:
        endings = "".join(Path(file.filename or "").suffixes[-2:]).lower()  # .jsonl.gz is two
        path = Path(folder) / f"upload{endings[-20:]}"
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        made = make_batch(database, new, path, file.filename or "the file", sampler=sampler)
    return {"batch": new.name, "tasks": made.tasks, "answers": made.answers}


class GoldIn(BaseModel):
    """A prompt, its answers, and their known ranks: 0 is best, equal ranks tie."""

    model_config = ConfigDict(extra="forbid")
    prompt: str | Annotated[list[dict[str, str]], Field(fail_fast=True)]
    completions: list[str] = Field(min_length=2, max_length=9)
    ranks: list[int] = Field(min_length=2, max_length=9)


class GoldsIn(BaseModel):
    """Gold questions for a batch."""

    model_config = ConfigDict(extra="forbid")
    gold: list[GoldIn] = Field(min_length=1, max_length=10_000, fail_fast=True)


@router.post("/gold", status_code=201)
def add_gold(batch: str, questions: GoldsIn, account: Lead, database: Db) -> dict[str, int]:
    """Mix questions whose answers' ranks are known into a batch of rankings."""
    return {"gold": add_gold_to(database, batch, questions)}


def add_gold_to(database: Database, batch: str, questions: GoldsIn) -> int:
    """How many gold questions a batch got."""
    rows = [
        Ranking(prompt=one.prompt, completions=tuple(one.completions), ranks=tuple(one.ranks))
        for one in questions.gold
    ]
    return add_gold_questions(database, batch, rows)


class ChangesIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    open: bool | None = None
    guidelines: str | None = Field(default=None, max_length=200_000)
    overlap: int | None = Field(default=None, ge=1, le=1000)
    quota: int | None = Field(default=None, ge=0)
    task_order: Literal["random", "priority"] | None = None
    ratings: bool | None = None
    flags: list[str] | None = Field(default=None, max_length=len(FLAGS))
    comment: bool | None = None
    none_acceptable: bool | None = None
    strength: bool | None = None
    comment_below: int | None = Field(default=None, ge=0, le=10)
    may_skip: bool | None = None
    show_progress: bool | None = None

    def given(self) -> dict[str, Any]:
        """The changes, as `change_batch` takes them."""
        changes = self.model_dump(exclude_none=True)
        return changes | ({"flags": flags_named(self.flags)} if self.flags is not None else {})


@router.patch("/batches")
def change(batch: str, changes: ChangesIn, account: Lead, database: Db) -> dict[str, bool]:
    """Open or close a batch, change its guidelines, overlap, quota, order, or what it asks and allows."""
    change_batch(database, batch, **changes.given())
    return {"changed": True}


@router.get("/people")
def people(request: Request, account: Lead) -> dict[str, Any]:
    """Every account: name, role, origin, active, answers."""
    return {"people": people_list(request.app.state.store)}


@router.post("/people", status_code=201)
def add_accounts(people: PeopleIn, account: Lead, database: Db) -> dict[str, Any]:
    """Make labelers' accounts; replies with their passwords, which are not shown again."""
    return {"people": add_people(database, account, people)}


@router.patch("/people")
def change_account(name: str, change: PersonIn, account: Lead, database: Db) -> dict[str, str]:
    """Let a labeler in or keep them out, or give them a new password, which is not shown again."""
    return change_person(database, account, name, change)


class WebhookIn(BaseModel):
    """url: called (POST, JSON) when the batch is complete, empty for nobody; secret: signs the call, 16 characters."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(max_length=2000)
    secret: str = Field(default="", max_length=200)


@router.put("/webhook")
def webhook(batch: str, hook: WebhookIn, account: Lead, database: Db) -> dict[str, bool]:
    """Have another program told when a batch is complete. For admins: the server itself makes the call."""
    if not account.at_least("admin"):
        raise HTTPException(403, "this needs the role admin")
    set_webhook(database, batch, hook.url, hook.secret)
    return {"changed": True}


@router.get("/tables/{name}.csv")
def table_csv(request: Request, name: str, account: Lead, database: Db, chosen: Chosen) -> Response:
    """A figure of the dashboard as CSV, over all answers there are now; seconds for a hundred thousand."""
    if name not in FIGURES:
        raise HTTPException(404, f"no such table; there are {', '.join(FIGURES)}")
    computed: Computed = request.app.state.computed
    found: dict[str, Table] = computed.current(chosen, lambda: tables(database, chosen))
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(as_csv(found[name]), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/plots/{name}.svg")
def plot_svg(request: Request, name: str, account: Lead, database: Db, chosen: Chosen) -> Response:
    """A figure as a picture, of the answers that the dashboard counted last; 404 where there is nothing to draw."""
    from annotate.figures.charts import chart

    computed: Computed = request.app.state.computed
    known = computed.soon(chosen, lambda: tables(database, chosen)).value
    found = known or computed.current(chosen, lambda: tables(database, chosen))
    picture = chart(name, found[name]) if name in FIGURES else None
    if picture is None:
        raise HTTPException(404, "there is nothing to draw")
    return Response(picture, media_type="image/svg+xml")


@router.get("/disagreements")
def list_disagreements(
    request: Request,
    batch: str,
    account: Lead,
    database: Db,
    people_only: bool = False,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0)] = 0,
    after: Annotated[str, Query(max_length=100, pattern=PLACE)] = "",
    task: int | None = None,
) -> dict[str, Any]:
    """Tasks whose labelers differ, worst first, each with everybody's answer in the order shown here.

    A verdict moves its task to the end: ask for those `after` the `place` of the last one, or for one `task`.
    {computing: true} while a large batch is compared for the first time; ask again a little later.
    """
    return found_disagreements(request.app.state, account, batch, people_only, limit, offset, after, task)


def found_disagreements(
    shared: Any, account: Account, batch: str, people_only: bool, limit: int, offset: int, after: str = "",
    task: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What GET /disagreements replies. shared: the app's state."""
    database: Database = shared.store.database
    asks = replace(batch_settings(database, batch).asks, comment=True)
    chosen = Choice(batch=batch, include_simulated=not people_only)
    computed: Computed = shared.computed
    shares = computed.soon(("differing", chosen), lambda: disagreement_by_task(database, chosen)).value
    wanted = {one: share for one, share in (shares or {}).items() if task in (None, one)}
    found = disagreements(database, chosen, wanted, limit, offset, after=_place(after))
    return {
        "disagreements": [_disagreement(database, account, one, asks) for one in found],
        "computing": shares is None,
    }


def _place(after: str) -> Place | None:
    if not after:
        return None
    decided, share, task = after.split(":")
    return decided == "1", float(share), int(task)


def _disagreement(database: Database, account: Account, found: Disagreement, asks: Any) -> dict[str, Any]:
    view = view_of(database, account, found.task.id)
    verdict = found.adjudicated
    return {
        "task": task_json(view, asks, 0),
        "client_id": f"verdict-{view.id}-{verdict.created if verdict else 0}",
        "place": "{:d}:{!r}:{:d}".format(*found.place),
        "share": found.share,
        "adjudicated": verdict
        and {"by": verdict.by, "said": said_text(view.kind, verdict, view.shown_order)},
        "answers": [
            {
                "labeler": given.labeler,
                "simulated": given.simulated,
                "ranks": shown(given.ranks, view.shown_order),
                "ratings": shown(given.ratings, view.shown_order),
                "comment": given.comment,
                "fields": given.fields,
            }
            for given in found.answers
        ],
    }


@router.post("/tasks/{task_id}/verdict")
def give_verdict(task_id: int, verdict: AnswerIn, account: Lead, database: Db) -> dict[str, Any]:
    """Overrule the labelers; replies once the verdict is on disk."""
    return keep_verdict(database, account, task_id, verdict)


def keep_verdict(database: Database, account: Account, task_id: int, verdict: AnswerIn) -> dict[str, Any]:
    """What POST /tasks/ID/verdict replies. A client id that GET /disagreements gave tells which verdict was seen there."""
    view = view_of(database, account, task_id)
    seen = re.fullmatch(rf"verdict-{task_id}-(\d+(?:\.\d+)?)", verdict.client_id)
    over = float(seen[1]) if seen else None
    return {"id": adjudicate(database, account.name, submission(view, account.id, verdict), over)}


@router.get("/export")
def download(
    account: Lead,
    database: Db,
    chosen: Chosen,
    format: Literal["rankings", "pairs", "demonstrations", "ratings"] = "rankings",
    file: Literal["jsonl", "csv", "parquet", "zip"] = "jsonl",
) -> Response:
    """The chosen labels as a file; zip holds a `datasets` folder. X-Snapshot names the set of answers for good."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-export-"))
    clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    try:
        target, exported = exported_to(folder, database, chosen, format, file)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    headers = {"X-Snapshot": exported.snapshot, "X-Rows": str(exported.rows)}
    return FileResponse(
        target,
        media_type="application/octet-stream",
        filename=file_name(chosen, target),
        headers=headers,
        background=clean,
    )


def exported_to(
    folder: Path, database: Database, chosen: Choice, format: str, file: str
) -> tuple[Path, Exported]:
    """The chosen labels as one file in a folder of nobody else's; zip holds a `datasets` folder."""
    target = folder / (format if file == "zip" else f"{format}.{file}")
    exported = export(database, target, format, chosen)
    return _zipped(target) if file == "zip" else target, exported


def file_name(chosen: Choice, target: Path) -> str:
    """What a download is called."""
    return f"{quote(chosen.batch or 'labels', safe='')[:80]}-{target.name}"


def _zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return target

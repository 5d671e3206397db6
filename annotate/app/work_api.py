"""REST endpoints of a labeler: tasks, drafts, answers, one's own history. The pages use the same ones."""

import hashlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse
from sqlalchemy import Connection, bindparam, func, select

from annotate.app.identity import Db, SignedIn
from annotate.app.payloads import (
    AnswerIn,
    DraftIn,
    given_json,
    own_id,
    past_json,
    submission,
    task_json,
)
from annotate.app.rendering import rendered, visible
from annotate.store.accounts import Account
from annotate.store.database import Database
from annotate.store.schema import Annotation
from annotate.work import drafts
from annotate.work.assign import TaskView, lease_one, reason_without_task, renew, view_tasks, was_given
from annotate.work.batches import (
    BatchOverview,
    batch_id,
    batch_settings,
    open_batches,
    overview_of,
    settings_of,
)
from annotate.work.history import OwnProgress, history, own_progress, standing_answer
from rlhf.data import as_messages

router = APIRouter(prefix="/api", tags=["labeling"])
LATE = select(Annotation.late).where(Annotation.id == bindparam("annotation"))
NUM_VERSIONS = (
    select(func.count())
    .select_from(Annotation)
    .where(Annotation.task_id == bindparam("task"), Annotation.labeler_id == bindparam("labeler"))
)


@router.get("/me")
def me(account: SignedIn) -> dict[str, Any]:
    """Who the session or token belongs to."""
    return {"name": account.name, "role": account.role}


@router.get("/batches")
def batches(account: SignedIn, database: Db) -> dict[str, Any]:
    """Open batches, with the caller's own progress in each."""
    rows = [
        {
            "name": batch.name,
            "kind": batch.kind,
            **_progress(own_progress(database, account.name, batch.name), batch),
        }
        for batch in open_batches(database, account.name)
    ]
    return {"batches": rows}


@router.get("/progress")
def progress(batch: str, account: SignedIn, database: Db) -> dict[str, Any]:
    """The caller's own answers in a batch, in all and today, and how far the batch is."""
    own = own_progress(database, account.name, batch)
    with database.read() as connection:
        [found] = overview_of(connection, batch_id(connection, batch))
    return _progress(own, found)


@router.post("/next")
def next_task(
    request: Request, account: SignedIn, batch: Annotated[str | None, Query()] = None
) -> dict[str, Any]:
    """Lease the next task: {task} with its draft, or {task: null, reason}. A task held already comes again."""
    return next_for(request.app.state, account, batch)


def next_for(shared: Any, account: Account, batch: str | None) -> dict[str, Any]:
    """What POST /api/next replies. shared: the app's state."""
    database = shared.store.database
    view = shared.store.lease(account.name, batch, shared.settings.lease_minutes)
    if view is None:
        return {"task": None, "reason": reason_without_task(database, account.name, batch)}
    return {"task": _task(database, account, view)}


@router.put("/tasks/{task_id}/draft")
def save_draft(task_id: int, draft: DraftIn, account: SignedIn, database: Db) -> dict[str, Any]:
    """Keep what is typed so far. {saved: false}: `revision` is there already, or {answered: true} the answer itself."""
    given = own_id(account.id, draft.client_id) if draft.client_id else ""
    return asdict(drafts.save_draft(database, account.name, task_id, draft.content, draft.revision, given))


@router.post("/tasks/{task_id}/open")
def open_task(request: Request, task_id: int, account: SignedIn, database: Db) -> dict[str, Any]:
    """A task that was given to the caller before, held again where it has a place: {task} with its draft."""
    minutes = request.app.state.settings.lease_minutes
    return {"task": _task(database, account, lease_one(database, account.name, task_id, minutes))}


@router.post("/tasks/{task_id}/answers")
def answer(request: Request, task_id: int, answer: AnswerIn, account: SignedIn) -> dict[str, Any]:
    """Keep an answer; replies once it is on disk. {repeated: true} says that this client_id was known already."""
    return keep_answer(request.app.state, account, task_id, answer)


def keep_answer(shared: Any, account: Account, task_id: int, answer: AnswerIn) -> dict[str, Any]:
    """What POST /api/tasks/ID/answers replies. shared: the app's state."""
    database = shared.store.database
    with database.read() as connection:
        view = _given(connection, account, task_id)
        found = connection.execute(drafts.GIVEN, {"client_id": own_id(account.id, answer.client_id)}).first()
    if answer.kind != "skip":
        answer.fields = _checked(shared, answer.fields)
    stored = shared.store.submit(account.name, submission(view, account.id, answer))
    return {"id": stored, "repeated": found is not None, "late": _is_late(database, stored)}


@router.post("/tasks/{task_id}/renew")
def renew_task(request: Request, task_id: int, account: SignedIn, database: Db) -> dict[str, Any]:
    """Hold a task for longer; {expires: null} once its place has gone to somebody else: an answer will count as late."""
    minutes = request.app.state.settings.lease_minutes
    return {"expires": renew(database, account.name, task_id, minutes)}


@router.post("/tasks/{task_id}/release")
def release(request: Request, task_id: int, account: SignedIn, database: Db) -> dict[str, bool]:
    """Give a task back unanswered."""
    given_view(database, account, task_id)
    request.app.state.store.release(account.name, task_id)
    return {"released": True}


@router.get("/tasks/{task_id}/answers/{place}/text")
def answer_text(task_id: int, place: int, account: SignedIn, database: Db) -> dict[str, Any]:
    """The whole of an answer that was shown folded, as it is; place counts in shown order."""
    return {"raw": visible(_answer_text(database, account, task_id, place))}


@router.get("/tasks/{task_id}/answers/{place}/source", response_class=PlainTextResponse)
def answer_source(task_id: int, place: int, account: SignedIn, database: Db) -> str:
    """An answer's own characters, to be edited."""
    return _answer_text(database, account, task_id, place)


@router.get("/tasks/{task_id}/prompt/{turn}/text")
def prompt_text(task_id: int, turn: int, account: SignedIn, database: Db) -> dict[str, Any]:
    """The whole of a turn that was shown folded."""
    turns = as_messages(own_view(database, account, task_id).prompt)
    if not 0 <= turn < len(turns):
        raise HTTPException(404, "no such turn")
    return {"raw": visible(turns[turn]["content"])}


@router.get("/guidelines")
def guidelines(batch: str, account: SignedIn, database: Db) -> dict[str, Any]:
    """A batch's guidelines, and a version that changes with their wording."""
    text = batch_settings(database, batch).guidelines
    return {"text": rendered(text), "version": _wording(text)}


@router.get("/history")
def own_history(
    account: SignedIn,
    database: Db,
    batch: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: int | None = None,
) -> dict[str, Any]:
    """The caller's own answers, newest first; `before` is the last id of the page before."""
    found = history(database, account.name, batch, limit, before)
    return {"answers": [past_json(past) for past in found]}


@router.get("/history/{annotation_id}")
def own_answer(annotation_id: int, account: SignedIn, database: Db) -> dict[str, Any]:
    """One of the caller's own answers as it stands now, with its task, ready to be changed."""
    past = standing_answer(database, account.name, annotation_id)
    task = _task(database, account, past.task)
    return {**past_json(past), "given": given_json(past), "task": task}


def _checked(shared: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a lead's page as they may be stored. Raises LabelError, and 503 while the page is being built."""
    known = shared.fields
    if known is None:
        raise HTTPException(503, "the page with its fields is starting; try again in a second")
    return known.checked(fields)


def _task(database: Database, account: Account, view: TaskView) -> dict[str, Any]:
    mine = {"task": view.id, "labeler": account.id}
    with database.read() as connection:
        settings = settings_of(connection, batch_id(connection, view.batch))
        num_versions = connection.execute(NUM_VERSIONS, mine).scalar_one()
        draft = connection.execute(drafts.DRAFT, mine).first()
    return {
        **task_json(view, settings.asks, num_versions),
        "guidelines": _wording(settings.guidelines),
        "draft": draft and draft.content,
        "revision": draft.revision if draft else 0,
    }


def _wording(guidelines: str) -> str:
    """A version of guidelines, by which a page knows whether it has shown them; empty where there are none."""
    return hashlib.sha256(guidelines.encode()).hexdigest()[:12] if guidelines else ""


def _progress(own: OwnProgress, batch: BatchOverview) -> dict[str, Any]:
    return {
        "own": {"answers": own.answers, "today": own.today, "quota": own.quota, "left": own.left},
        **counts_shown(own, batch),
    }


def counts_shown(own: OwnProgress, batch: BatchOverview) -> dict[str, int]:
    """A batch's tasks and those finished, as a labeler sees them: a gold question is one more task, and moves as any other."""
    tasks = batch.tasks + own.num_gold
    return {
        "tasks": tasks,
        "finished": batch.finished + own.gold if batch.finished < batch.tasks else tasks,
    }


def _answer_text(database: Database, account: Account, task_id: int, place: int) -> str:
    view = own_view(database, account, task_id)
    if not 0 <= place < len(view.completions):
        raise HTTPException(404, "no such answer")
    return view.completions[view.shown_order[place]]


def own_view(database: Database, account: Account, task_id: int) -> TaskView:
    """A task to be read: one that was given to the account, or any for a lead."""
    return (view_of if account.at_least("lead") else given_view)(database, account, task_id)


def given_view(database: Database, account: Account, task_id: int) -> TaskView:
    """A task that was given out to the account, by lease; raises 404, as for an unknown one, for all others."""
    with database.read() as connection:
        return _given(connection, account, task_id)


def _given(connection: Connection, account: Account, task_id: int) -> TaskView:
    if not was_given(connection, account.id, task_id):
        raise HTTPException(404, f"task {task_id}: not a task of yours; open the next one")
    return view_tasks(connection, [task_id], account.id)[0]


def view_of(database: Database, account: Account, task_id: int) -> TaskView:
    """A task with the order in which this account sees its answers. For use on the server: asks for no right to it."""
    with database.read() as connection:
        return view_tasks(connection, [task_id], account.id)[0]


def _is_late(database: Database, annotation: int) -> bool:
    with database.read() as connection:
        return bool(connection.execute(LATE, {"annotation": annotation}).scalar())

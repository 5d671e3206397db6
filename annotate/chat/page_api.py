"""The chat page's endpoints. Every one finds out by itself who asks, and touches only what is theirs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from annotate.app.identity import Db, SignedIn
from annotate.app.pages import shell
from annotate.app.rendering import visible
from annotate.chat import conversations as stored
from annotate.chat.api.protocol import sse
from annotate.chat.asking import Asking, Question
from annotate.chat.checkpoints import Checkpoints
from annotate.chat.feedback import record_comparison, record_rewrite, record_thumb
from annotate.chat.running import Running, Watched
from annotate.chat.tree import Tree, branches, hidden_models, marks, prompt_id, turn_json
from annotate.store.accounts import Account
from annotate.store.database import Database
from rlhf.errors import EngineError, InputError, LabelError
from rlhf.serving.completions import Explanation, text_of
from rlhf.serving.engine_process import EngineProcess
from rlhf.starter.items import take_items

ClientId = Annotated[str, Field(min_length=8, max_length=64)]


class Title(BaseModel):
    title: str = Field(min_length=1, max_length=200)


class Settings(BaseModel):
    settings: dict[str, Any] = {}


class Thumb(BaseModel):
    client_id: ClientId
    message: int
    up: bool
    replaces: int | None = None


class Rewrite(BaseModel):
    client_id: ClientId
    message: int
    text: str = Field(max_length=100_000)
    replaces: int | None = None


class Comparison(BaseModel):
    """a was shown first (left), b second."""

    client_id: ClientId
    a: int
    b: int
    verdict: str
    time_s: float = Field(0.0, ge=0)
    replaces: int | None = None


@dataclass(frozen=True)
class Defaults:
    """What a new conversation begins with; model: none for the first there is, sampling: as the page's settings."""

    model: str | None = None
    system: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)


def page_router(engine: EngineProcess, checkpoints: Checkpoints, defaults: Defaults) -> APIRouter:
    """/chat and what its scripts ask for under /api/chat."""
    router = APIRouter(include_in_schema=False)
    _add_pages(router)
    _add_conversations(router, checkpoints, defaults)
    _add_changes(router)
    _add_feedback(router)
    _add_answers(router, engine, checkpoints)
    return router


def _add_pages(router: APIRouter) -> None:
    @router.get("/chat")
    @router.get("/chat/{conversation:int}")
    def page(request: Request) -> Response:
        return shell(request, "chat", "chat.jinja")


def _add_conversations(router: APIRouter, checkpoints: Checkpoints, defaults: Defaults) -> None:
    @router.get("/api/chat/models")
    def models(account: SignedIn) -> dict[str, Any]:
        return {
            "models": [_model(found) for found in checkpoints.all()],
            "defaults": vars(defaults),
        }

    @router.get("/api/chat/conversations")
    def listed(
        account: SignedIn,
        database: Db,
        search: Annotated[str, Query(max_length=200)] = "",
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        found = stored.conversations(database, account.name, search.strip(), 50, offset)
        rows = [
            {"id": head.id, "title": visible(head.title), "updated": head.updated, "settings": head.settings}
            for head in found
        ]
        return {"conversations": rows}

    @router.get("/api/chat/conversations/{conversation}")
    def opened(account: SignedIn, database: Db, conversation: int) -> dict[str, Any]:
        tree = Tree.read(database, account.name, conversation)
        given = marks(database, account.name, conversation)
        hidden = hidden_models(tree, given)
        turns = [turn_json(turn, turn.id in hidden) for turn in tree.nodes.values()]
        kept = stored.settings_of(database, account.name, conversation)
        return {"messages": turns, "marks": [vars(mark) for mark in given], "settings": kept}

    @router.get("/api/chat/conversations/{conversation}/export")
    def exported(account: SignedIn, database: Db, conversation: int) -> Response:
        tree = Tree.read(database, account.name, conversation)
        rows = branches(tree, marks(database, account.name, conversation))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        headers = {
            "Content-Disposition": f"attachment; filename={quote(f'conversation-{conversation}.jsonl')}"
        }
        return Response(text, media_type="application/jsonl", headers=headers)


def _add_changes(router: APIRouter) -> None:
    @router.post("/api/chat/conversations")
    def begin(account: SignedIn, database: Db, given: Settings) -> dict[str, Any]:
        return {"id": stored.start_conversation(database, account.name, given.settings)}

    @router.patch("/api/chat/conversations/{conversation}")
    def renamed(account: SignedIn, database: Db, conversation: int, given: Title) -> dict[str, Any]:
        stored.rename_conversation(database, account.name, conversation, given.title)
        return {"title": visible(given.title)}

    @router.put("/api/chat/conversations/{conversation}/settings")
    def set_up(account: SignedIn, database: Db, conversation: int, given: Settings) -> dict[str, Any]:
        stored.change_settings(database, account.name, conversation, given.settings)
        return {}

    @router.delete("/api/chat/conversations/{conversation}")
    def deleted(account: SignedIn, database: Db, conversation: int) -> dict[str, Any]:
        stored.delete_conversation(database, account.name, conversation)
        return {}


def _model(found: Any) -> dict[str, Any]:
    suggestions = [item.prompt for item in take_items("test", 4, 0)] if found.starter else []
    return {"name": found.name, "stage": found.stage, "suggestions": suggestions}


def _add_feedback(router: APIRouter) -> None:
    @router.post("/api/chat/conversations/{conversation}/thumb")
    def thumb(account: SignedIn, database: Db, conversation: int, given: Thumb) -> dict[str, Any]:
        return _of_one_answer(record_thumb, account, database, conversation, given, given.up)

    @router.post("/api/chat/conversations/{conversation}/rewrite")
    def rewrite(account: SignedIn, database: Db, conversation: int, given: Rewrite) -> dict[str, Any]:
        return _of_one_answer(record_rewrite, account, database, conversation, given, given.text)

    @router.post("/api/chat/conversations/{conversation}/compare")
    def compare(account: SignedIn, database: Db, conversation: int, given: Comparison) -> dict[str, Any]:
        """Keeps the choice and tells whose the answers are."""
        tree = Tree.read(database, account.name, conversation)
        a, b = tree.answer(given.a), tree.answer(given.b)
        first, second = tree.nodes[given.a], tree.nodes[given.b]
        if given.a == given.b or first.parent != second.parent:
            raise LabelError("a comparison needs two different answers to the same question")
        if prompt_id(first) != prompt_id(second):
            raise LabelError(
                "the two answers were given different prompts (another system text, or other turns left out): "
                "there is nothing to compare"
            )
        number = record_comparison(
            database, account.name, given.client_id, tree.prompt(first), a, b, given.verdict,
            time_s=given.time_s, context=_context(tree, given.a, given.b), replaces=given.replaces,
        )  # fmt: skip
        shown = [turn_json(turn, hidden=False) for turn in (first, second)]
        return {"annotation": number, "messages": shown}


def _of_one_answer(
    record: Callable[..., int],
    account: Account,
    database: Database,
    conversation: int,
    given: Thumb | Rewrite,
    said: bool | str,
) -> dict[str, Any]:
    tree = Tree.read(database, account.name, conversation)
    answer, prompt = tree.answer(given.message), tree.prompt(tree.nodes[given.message])
    context = _context(tree, given.message)
    number = record(
        database, account.name, given.client_id, prompt, answer, said, context=context, replaces=given.replaces
    )  # fmt: skip
    return {"annotation": number}


def _context(tree: Tree, *answers: int) -> dict[str, Any]:
    return {"conversation": tree.conversation, "answers": list(answers)}


def _add_answers(router: APIRouter, engine: EngineProcess, checkpoints: Checkpoints) -> None:
    running = Running()

    @router.post("/api/chat/conversations/{conversation}/ask")
    async def ask(account: SignedIn, database: Db, conversation: int, question: Question) -> Response:
        """The answer, or two, as server-sent events; a page that goes away does not end them."""

        def begin() -> Asking:
            tree = Tree.read(database, account.name, conversation)
            return Asking(database, engine, account.name, tree, question, checkpoints)

        try:
            asking = await asyncio.to_thread(begin)
        except InputError as error:
            raise HTTPException(422, str(error)) from None
        return _told(running.start(conversation, account.name, asking.run))

    @router.get("/api/chat/conversations/{conversation}/answer")
    async def join(account: SignedIn, conversation: int) -> Response:
        """The answer under way once more from its beginning; 204 where there is none."""
        latest = running.latest(conversation, account.name)
        return _told(latest) if latest else Response(status_code=204)

    @router.post("/api/chat/conversations/{conversation}/stop")
    async def stop(account: SignedIn, conversation: int) -> dict[str, Any]:
        """End the answer under way; what there is of it is kept."""
        running.stop(conversation, account.name)
        return {}

    @router.get("/api/chat/conversations/{conversation}/hood/{message}")
    async def hood(account: SignedIn, database: Db, conversation: int, message: int) -> dict[str, Any]:
        """Under the hood of an answer: its tokens' probabilities, its reward, how far it is from the reference."""

        def read() -> Tree:
            return _with_open_models(database, account.name, conversation, message)

        tree = await asyncio.to_thread(read)
        turn = tree.turn(message, "assistant")
        try:
            return await _explained(engine, checkpoints, turn, tree.prompt(turn))
        except (InputError, EngineError) as error:
            raise HTTPException(422, str(error)) from None


def _told(watched: Watched) -> StreamingResponse:
    """Events as a stream for a page."""

    async def lines() -> AsyncIterator[str]:
        async for event in watched.follow():
            yield sse(event) if event is not None else ": still at it\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _with_open_models(database: Database, labeler: str, conversation: int, message: int) -> Tree:
    """The conversation; refused while the answer is one of a blind pair that nobody has chosen from."""
    tree = Tree.read(database, labeler, conversation)
    if message in hidden_models(tree, marks(database, labeler, conversation)):
        raise LabelError("choose the better answer first: this view would tell whose it is")
    return tree


async def _explained(
    engine: EngineProcess, checkpoints: Checkpoints, turn: stored.StoredMessage, prompt: Any
) -> dict[str, Any]:
    name, answer, ended = turn.checkpoint, turn.content, turn.ended is not False
    folder = checkpoints.named(name).folder
    reference, reward = checkpoints.reference(name), checkpoints.reward(name)
    beside = reference and reference.folder
    told: Explanation = await engine.call("explain", folder, beside, prompt, answer, ended)
    scores = await engine.call("score", reward.folder, [(prompt, answer)]) if reward else None
    places = range(len(told.tokens))
    return {
        "reference": reference.name if reference and told.kl is not None else None,
        "reward": scores[0] if scores else None,
        "reward_model": reward.name if reward else None,
        "tokens": [
            {
                "text": token.text,
                "logprob": token.logprob,
                "alternatives": [(text_of(each), logprob) for each, logprob in token.alternatives],
                "ref_logprob": told.ref_logprobs[i] if told.ref_logprobs else None,
                "kl": told.kl[i] if told.kl else None,
            }
            for i, token in zip(places, told.tokens, strict=True)
        ],
    }

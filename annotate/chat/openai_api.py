"""OpenAI's chat completions over our engine: any client of that protocol can talk to our checkpoints.

What would change an answer and is not offered (tools, JSON mode, penalties we do not have) is refused; what would not
(user, metadata, …) is ignored.
"""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from annotate.chat.checkpoints import Checkpoints
from rlhf.errors import BusyError, EngineError, InputError
from rlhf.serving.completions import Answer, Done, Event, Failed, Piece, Queued, Started, TokenInfo
from rlhf.serving.completions import Request as Wanted
from rlhf.serving.engine_process import EngineProcess, raised

MAX_CHOICES = 8
NO_CONTEXT_TOKENS = 2048  # longest answer of a model that states no context
T = TypeVar("T")


class Refused(Exception):
    """An error as the protocol tells it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(self.status)
        return JSONResponse(self.body(), self.status, headers)


class Turn(BaseModel):
    role: str
    content: str | list[dict[str, Any]]

    def message(self) -> dict[str, str]:
        """The turn as our messages are. Raises Refused for content that is not text."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise Refused(400, "content: these models read text only", "messages")
        return {"role": role, "content": "".join(part["text"] for part in self.content)}


class Body(BaseModel):
    """What a client may ask. The last group is refused unless it asks for nothing."""

    model_config = ConfigDict(extra="ignore")
    model: str
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    tools: list[Any] | None = None
    functions: list[Any] | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: dict[str, Any] | None = None

    def wanted(self, owner: str) -> Wanted:
        """The engine's request. Raises Refused for what is not offered, InputError for what is out of range."""
        for name in ("tools", "functions", "logit_bias", "presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                raise Refused(400, f"{name} is not offered here", name, "unsupported_parameter")
        if self.response_format and self.response_format.get("type") != "text":
            raise Refused(400, "only text is offered", "response_format", "unsupported_parameter")
        if self.stream and self.n != 1:
            raise Refused(400, "n over 1 is not offered with stream", "n", "unsupported_parameter")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Wanted(
            messages=tuple(turn.message() for turn in self.messages),
            max_new_tokens=_given(self.max_completion_tokens, self.max_tokens, NO_CONTEXT_TOKENS),
            temperature=_given(self.temperature, 1.0),
            top_p=_given(self.top_p, 1.0),
            top_k=_given(self.top_k, 0),
            repetition_penalty=_given(self.repetition_penalty, 1.0),
            seed=_given(self.seed, secrets.randbits(48)),
            stop=stop,
            alternatives=max(1, self.top_logprobs or 0) if self.logprobs else 0,
            owner=owner,
        )


def _given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def openai_router(
    engine: EngineProcess, checkpoints: Checkpoints, account: Callable[[Request], str]
) -> APIRouter:
    """/v1/models, /v1/chat/completions and /health. account: the name of who asks; raises HTTPException 401."""
    router = APIRouter(include_in_schema=False)

    def asking(request: Request) -> str:
        try:
            return account(request)
        except HTTPException as refused:
            raise Refused(refused.status_code, str(refused.detail), code="invalid_api_key") from None

    @router.get("/v1/models")
    def models(request: Request) -> Response:
        return answered(lambda: _list(asking(request), checkpoints))

    @router.get("/v1/models/{name:path}")
    def model(request: Request, name: str) -> Response:
        return answered(lambda: _named(asking(request), checkpoints, name))

    @router.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        try:
            body = Body.model_validate_json(await request.body())
            wanted = body.wanted(await asyncio.to_thread(asking, request))
            folder = (await asyncio.to_thread(checkpoints.named, body.model)).folder
            if body.stream:
                return await _streamed(engine, folder, wanted, body)
            return await until_hangup(request, _whole(engine, folder, wanted, body))
        except (Refused, InputError, EngineError, ValidationError) as error:
            return refusal(error).response()

    @router.get("/health")
    async def health() -> dict[str, int]:
        """How many answers are under way and how many requests in line: for monitors, so it needs no key."""
        models = (await engine.call("status")).values()
        return {name: sum(model[name] for model in models) for name in ("running", "waiting")}

    return router


def answered(make: Callable[[], dict[str, Any]]) -> Response:
    try:
        return JSONResponse(make())
    except (Refused, InputError) as error:
        return refusal(error).response()


def refusal(error: Exception) -> Refused:
    """Any failure of ours as the protocol's error, with the parameter's name where it is one's fault."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        return Refused(400, f"{where}: {first['msg']}", where)
    if isinstance(error, BusyError):
        return Refused(429, str(error), code="queue_full")
    if isinstance(error, EngineError):
        return Refused(503, str(error))
    message = str(error)
    if message.startswith("model "):
        return Refused(404, message, "model", "model_not_found")
    if "context is" in message:
        return Refused(400, message, "messages", "context_length_exceeded")
    first_word = message.split()[0].rstrip(":")
    names = {"max_new_tokens": "max_tokens", "message": "messages", "alternatives": "top_logprobs"}
    name = names.get(first_word, first_word if first_word in Body.model_fields else None)
    return Refused(400, message.replace("max_new_tokens", "max_tokens"), name, "invalid_value")


async def until_hangup(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """What `work` gives; it is cancelled, and its slot freed, when the client goes away first."""
    answer = asyncio.create_task(work)
    # The body has been read: the next message is the hang-up.
    gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return Response(status_code=499)
        return answer.result()
    finally:
        gone.cancel()


def _model(name: str, created: str) -> dict[str, Any]:
    seconds = int(datetime.fromisoformat(created).timestamp()) if created else 0
    return {"id": name, "object": "model", "created": seconds, "owned_by": "rlhf"}


def _list(owner: str, checkpoints: Checkpoints) -> dict[str, Any]:
    return {"object": "list", "data": [_model(found.name, found.created) for found in checkpoints.all()]}


def _named(owner: str, checkpoints: Checkpoints, name: str) -> dict[str, Any]:
    found = checkpoints.named(name)
    return _model(found.name, found.created)


async def _whole(engine: EngineProcess, folder: str, wanted: Wanted, body: Body) -> Response:
    seeds = [(wanted.seed + i) % (1 << 64) for i in range(body.n or 1)]
    asked = [engine.answer(folder, _seeded(wanted, seed)) for seed in seeds]
    answers = await asyncio.gather(*asked)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": logprobs(answer.tokens, body.top_logprobs or 0) if body.logprobs else None,
            "finish_reason": finish_reason(answer.reason),
        }
        for index, answer in enumerate(answers)
    ]
    spent = sum(answer.completion_tokens for answer in answers)
    usage = _usage(answers[0].prompt_tokens, spent)
    head = {"id": _new_id(), "object": "chat.completion", "created": int(time.time()), "model": body.model}
    return JSONResponse({**head, "choices": choices, "usage": usage})


def _seeded(wanted: Wanted, seed: int) -> Wanted:
    return Wanted(**{**vars(wanted), "seed": seed})


async def _streamed(engine: EngineProcess, folder: str, wanted: Wanted, body: Body) -> Response:
    """The answer as server-sent events. What fails before it starts fails as a plain answer does."""
    events = engine.astream(folder, wanted)
    first = await anext(events)
    if isinstance(first, Failed):
        raise raised(first)
    return StreamingResponse(
        _chunks(first, events, body), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _chunks(first: Event, events: AsyncIterator[Event], body: Body) -> AsyncIterator[str]:
    head = {
        "id": _new_id(),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": body.model,
    }
    wants_usage = bool((body.stream_options or {}).get("include_usage"))
    answer = Answer()

    def chunk(delta: dict[str, Any], reason: str | None = None, tokens: Any = ()) -> str:
        told = logprobs(tokens, body.top_logprobs or 0) if body.logprobs and tokens else None
        choice = {"index": 0, "delta": delta, "logprobs": told, "finish_reason": reason}
        return _sse({**head, "choices": [choice], **({"usage": None} if wants_usage else {})})

    async with aclosing(_with_first(first, events)) as all_events:  # type: ignore[type-var]
        async for event in all_events:
            answer.add(event)
            if isinstance(event, Queued):
                yield f": place in line: {event.place}\n\n"
            elif isinstance(event, Started):
                yield chunk({"role": "assistant", "content": ""})
            elif isinstance(event, Piece):
                yield chunk({"content": event.text}, tokens=event.tokens)
            elif isinstance(event, Done):
                yield chunk({}, finish_reason(event.reason))
            elif isinstance(event, Failed):
                yield _sse(refusal(raised(event)).body())
                return
    if wants_usage:
        usage = _usage(answer.prompt_tokens, answer.completion_tokens)
        yield _sse({**head, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


async def _with_first(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    async with aclosing(rest):  # type: ignore[type-var]
        yield first
        async for item in rest:
            yield item


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def finish_reason(reason: str) -> str:
    """The protocol knows stop and length only; a time limit cuts an answer as a length limit does."""
    return "stop" if reason == "stop" else "length"


def logprobs(tokens: Any, alternatives: int) -> dict[str, Any]:
    """Token probabilities as the protocol shows them."""

    def one(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def full(info: TokenInfo) -> dict[str, Any]:
        likely = [one(*pair) for pair in info.alternatives[:alternatives]]
        return {**one(info.text, info.logprob), "top_logprobs": likely}

    return {"content": [full(info) for info in tokens], "refusal": None}

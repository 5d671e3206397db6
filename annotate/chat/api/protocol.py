"""OpenAI's protocol around an answer: refusals, server-sent events, and a client that hangs up."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders

from annotate.chat.checkpoints import NO_SUCH_MODEL
from annotate.store.database import DatabaseDown
from rlhf.errors import BusyError, ClosedError, InputError, RLHFError


class Refused(Exception):
    """An error as the protocol tells it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        message = " ".join(str(self).split())  # it may name what was sent, line ends and all
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        waits = {429: {"Retry-After": "1"}, 503: {"Retry-After": "10"}}
        headers = {401: {"WWW-Authenticate": "Bearer"}, **waits}.get(self.status)
        return JSONResponse(self.body(), self.status, headers)


# What the engine calls otherwise than the protocol.
NAMES = {"max_new_tokens": "max_tokens", "alternatives": "top_logprobs", "json_schema": "response_format"}


def refusal(error: Exception, prompt: str = "messages") -> Refused:
    """Any failure of ours as the protocol's error, with the parameter's name where it is one's fault.

    prompt: the parameter that holds what is answered.
    """
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        return Refused(400, f"{where}: {first['msg']}", where)
    if isinstance(error, BusyError):
        return Refused(429, str(error), code="queue_full")
    if isinstance(error, InputError):
        return _refused_input(error, prompt)
    return Refused(503 if isinstance(error, ClosedError | DatabaseDown) else 500, str(error))


def _refused_input(error: InputError, prompt: str) -> Refused:
    names = NAMES | {"prompt": prompt}
    message = str(error).replace("max_new_tokens", "max_tokens")
    param = names.get(error.param, error.param) or None
    return Refused(404 if error.code == NO_SUCH_MODEL else 400, message, param, error.code or "invalid_value")


def answered(make: Callable[[], dict[str, Any]]) -> Response:
    """What `make` gives, or its refusal."""
    try:
        return JSONResponse(make())
    except (Refused, RLHFError) as error:
        return refusal(error).response()


class InProtocol:
    """ASGI middleware: what is refused under `paths` with {"detail": …} by others than the API is told as its error."""

    def __init__(self, app: Any, *, paths: tuple[str, ...]) -> None:
        self.app, self.paths = app, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.paths):
            await self.app(scope, receive, send)
            return
        refused: dict[str, Any] = {}  # the beginning of an answer whose body is awaited
        body = b""

        async def sending(message: Any) -> None:
            nonlocal body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused.update(message)
            elif not refused:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    told = _in_protocol(body, refused["status"], f"{scope['method']} {quote(scope['path'])}")
                    MutableHeaders(raw=refused["headers"])["content-length"] = str(len(told))
                    await send(refused)
                    await send({"type": "http.response.body", "body": told})

        await self.app(scope, receive, sending)


def _in_protocol(body: bytes, status: int, asked: str) -> bytes:
    """A refusal's body; one with a detail alone as the protocol has it."""
    try:
        told = json.loads(body)
    except ValueError:
        return body
    if not isinstance(told, dict) or told.keys() != {"detail"}:
        return body
    return bytes(Refused(status, f"{asked}: {told['detail']}").response().body)


async def until_hangup(request: Request, work: Awaitable[Response]) -> Response:
    """What `work` gives; it is cancelled, and its slot freed, when the client goes away first."""
    answer = asyncio.ensure_future(work)
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
        answer.cancel()


def sse(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """What an answer took, as the protocol counts."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def finish_reason(reason: str) -> str:
    """The protocol knows stop and length only; a time limit cuts an answer as a length limit does."""
    return "stop" if reason == "stop" else "length"

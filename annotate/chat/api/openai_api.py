"""OpenAI's protocol over our engine: any client of it can talk to our checkpoints and score texts with them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from annotate.chat.api.answering import Asked, only_prompts, streamed, whole
from annotate.chat.api.bodies import (
    IGNORED_HEADER,
    ChatBody,
    DetokenizeBody,
    Sampled,
    Strict,
    TextBody,
    TokenizeBody,
)
from annotate.chat.api.metrics import Metrics
from annotate.chat.api.protocol import Refused, answered, refusal, until_hangup
from annotate.chat.api.shapes import ChatShape, Echo, Shape, TextShape
from annotate.chat.checkpoints import Checkpoints
from rlhf.errors import RLHFError
from rlhf.serving.completions import Request as Wanted
from rlhf.serving.engine_process import EngineProcess

PATHS = ("/v1/", "/tokenize", "/detokenize", "/health", "/metrics")


class Api:
    """What every endpoint needs: who asks, which checkpoint, and the engine. account: raises HTTPException 401."""

    def __init__(
        self, engine: EngineProcess, checkpoints: Checkpoints, account: Callable[[Request], str]
    ) -> None:
        self.engine, self.checkpoints, self.account = engine, checkpoints, account

    def asking(self, request: Request) -> str:
        """The name of who asks. Raises Refused."""
        try:
            return self.account(request)
        except HTTPException as refused:
            raise Refused(refused.status_code, str(refused.detail), code="invalid_api_key") from None

    async def folder(self, name: str) -> str:
        """Where the named checkpoint is. Raises InputError, StoreError."""
        return (await asyncio.to_thread(self.checkpoints.named, name)).folder

    async def complete(self, body: Sampled, wanted: list[Wanted], folder: str, shape: Shape) -> Response:
        """The answers, as the client wants them."""
        asked = Asked(body.model, folder, wanted, body.n or 1, shape, body.wants_usage)
        return await (streamed if body.stream else whole)(self.engine, asked)


def openai_router(
    engine: EngineProcess, checkpoints: Checkpoints, account: Callable[[Request], str]
) -> APIRouter:
    """/v1/models, /v1/chat/completions, /v1/completions, /tokenize, /detokenize, /health and /metrics."""
    router = APIRouter(include_in_schema=False)
    api = Api(engine, checkpoints, account)
    _add_models(router, api)
    _add_completions(router, api)
    _add_tokens(router, api)

    @router.get("/health")
    async def health() -> Response:
        """How many answers are under way and how many requests in line: for monitors, so it needs no key.

        Told at once, also while a model is loaded or the engine started anew.
        """

        def told() -> dict[str, Any]:
            models = engine.status().values()
            numbers = {name: sum(model[name] for model in models) for name in ("running", "waiting")}
            return {"state": engine.state, **numbers}

        return answered(told)

    numbers = Metrics(engine)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Counters and times for Prometheus; no key, as /health."""
        try:
            text = numbers.text()
        except RLHFError as error:
            return refusal(error).response()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _add_models(router: APIRouter, api: Api) -> None:
    @router.get("/v1/models")
    def models(request: Request) -> Response:
        def listed() -> dict[str, Any]:
            api.asking(request)
            return {
                "object": "list",
                "data": [_model(found.name, found.created) for found in api.checkpoints.all()],
            }

        return answered(listed)

    @router.get("/v1/models/{name:path}")
    def model(request: Request, name: str) -> Response:
        def named() -> dict[str, Any]:
            api.asking(request)
            found = api.checkpoints.named(name)
            return _model(found.name, found.created)

        return answered(named)


def _model(name: str, created: str) -> dict[str, Any]:
    seconds = int(datetime.fromisoformat(created).timestamp()) if created else 0
    return {"id": name, "object": "model", "created": seconds, "owned_by": "rlhf"}


def _add_completions(router: APIRouter, api: Api) -> None:
    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        async def make(body: ChatBody, owner: str) -> Response:
            wanted, folder = body.wanted(owner), await api.folder(body.model)
            shape = ChatShape(bool(body.logprobs), body.top_logprobs or 0)
            return await api.complete(body, wanted, folder, shape)

        return await _carried_out(api, request, ChatBody, make)

    @router.post("/v1/completions")
    async def text(request: Request) -> Response:
        async def make(body: TextBody, owner: str) -> Response:
            wanted, folder = body.wanted(owner), await api.folder(body.model)
            echoes = [await _echo(api.engine, folder, body, prompt) for prompt in body.prompts()]
            shape = TextShape(body.logprobs, [echo for echo in echoes for _ in range(body.n or 1)])
            if not body.answers:
                return only_prompts(shape, body.model, body.n or 1)
            return await api.complete(body, wanted, folder, shape)

        return await _carried_out(api, request, TextBody, make)


Body = TypeVar("Body", bound=Strict)


async def _carried_out(
    api: Api, request: Request, kind: type[Body], make: Callable[[Body, str], Awaitable[Response]]
) -> Response:
    """What `make` gives for the request's body and account; any failure as the protocol tells it.

    A client that hangs up before ends it.
    """
    try:
        owner = await asyncio.to_thread(api.asking, request)
        body = kind.model_validate_json(await request.body())
        ignored = body.ignored()
        response = await until_hangup(request, make(body, owner))
    except (Refused, RLHFError, ValidationError) as error:
        return refusal(error, kind.read_from).response()
    if ignored:
        response.headers[IGNORED_HEADER] = ", ".join(ignored)
    return response


async def _echo(engine: EngineProcess, folder: str, body: TextBody, prompt: str | tuple[int, ...]) -> Echo:
    """What stands in front of a prompt's answers."""
    if not body.echo:
        return Echo()
    text = prompt if isinstance(prompt, str) else await engine.call("detokenize", folder, prompt)
    if body.logprobs is not None:
        first, tokens = await engine.call("score_text", folder, prompt, max(1, body.logprobs))
        return Echo(text, first, tokens, len(tokens) + 1)
    if body.answers:
        return Echo(text)
    return Echo(text, num_tokens=await engine.call("count_tokens", folder, prompt))


def _add_tokens(router: APIRouter, api: Api) -> None:
    @router.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        async def make(body: TokenizeBody, owner: str) -> Response:
            folder = await api.folder(body.model)
            tokens, texts, context = await api.engine.call("tokenize", folder, body.text_or_messages())
            told = {"count": len(tokens), "max_model_len": context, "tokens": tokens}
            return JSONResponse(told | ({"token_strs": texts} if body.return_token_strs else {}))

        return await _carried_out(api, request, TokenizeBody, make)

    @router.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        async def make(body: DetokenizeBody, owner: str) -> Response:
            folder = await api.folder(body.model)
            return JSONResponse({"prompt": await api.engine.call("detokenize", folder, tuple(body.tokens))})

        return await _carried_out(api, request, DetokenizeBody, make)

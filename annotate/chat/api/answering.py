"""Requests on their way to an HTTP answer: whole, or as server-sent events."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse

from annotate.chat.api.protocol import refusal, sse, usage
from annotate.chat.api.shapes import Shape, TextShape
from rlhf.serving.completions import Answer, Done, Event, Failed, Piece, Queued, Request, Started
from rlhf.serving.engine_process import EngineProcess, raised


async def whole(
    engine: EngineProcess, folder: str, requests: Sequence[Request], shape: Shape, model: str
) -> Response:
    """All answers at once. Raises InputError, EngineError; one failure ends the others."""
    answers = await _all(engine, folder, requests)
    choices = [shape.whole(index, answer) for index, answer in enumerate(answers)]
    return JSONResponse(
        {**_head(shape.kind, shape.prefix, model), "choices": choices, "usage": _usage(requests, answers)}
    )


def only_prompts(shape: TextShape, model: str) -> Response:
    """The echoed prompts, to which nothing was added."""
    choices = [shape.whole(index, Answer(reason="length")) for index in range(len(shape.echoes))]
    num_tokens = sum(len(echo.tokens) + bool(echo.first) for echo in shape.echoes)
    head = _head(shape.kind, shape.prefix, model)
    return JSONResponse({**head, "choices": choices, "usage": usage(num_tokens, 0)})


async def _all(engine: EngineProcess, folder: str, requests: Sequence[Request]) -> list[Answer]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engine.answer(folder, request)) for request in requests]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _usage(requests: Sequence[Request], answers: Sequence[Answer]) -> dict[str, int]:
    """Several choices of one prompt count it once."""
    prompts = {str(request.prompt): answer for request, answer in zip(requests, answers, strict=True)}
    return usage(
        sum(answer.prompt_tokens for answer in prompts.values()),
        sum(answer.completion_tokens for answer in answers),
    )


def _head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


async def streamed(
    engine: EngineProcess,
    folder: str,
    requests: Sequence[Request],
    shape: Shape,
    model: str,
    wants_usage: bool,
) -> Response:
    """The answers as server-sent events. What fails before all have started fails as a plain answer does."""
    events = engine.astreams(folder, requests)
    begun: list[tuple[int, Event]] = []
    try:
        while len({index for index, _ in begun}) < len(requests):
            begun.append(await anext(events))
            if isinstance(event := begun[-1][1], Failed):
                raise raised(event)
    except BaseException:
        await events.aclose()
        raise
    chunks = _chunks(_from_the_beginning(begun, events), requests, shape, model, wants_usage)
    return StreamingResponse(chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _from_the_beginning(
    begun: Sequence[tuple[int, Event]], events: AsyncGenerator[tuple[int, Event], None]
) -> AsyncGenerator[tuple[int, Event], None]:
    """(index of the answer, event): those that have come, and the rest as they come."""
    async with aclosing(events):
        for each in begun:
            yield each
        async for each in events:
            yield each


async def _chunks(
    events: AsyncGenerator[tuple[int, Event], None],
    requests: Sequence[Request],
    shape: Shape,
    model: str,
    wants_usage: bool,
) -> AsyncIterator[str]:
    head = _head(shape.chunk_kind, shape.prefix, model)
    answers = [Answer() for _ in requests]

    def chunk(choice: dict[str, Any]) -> str:
        return sse({**head, "choices": [choice], **({"usage": None} if wants_usage else {})})

    async with aclosing(events) as all_events:
        async for index, event in all_events:
            answers[index].add(event)
            if isinstance(event, Queued):
                yield f": place in line: {event.place}\n\n"
            elif isinstance(event, Started):
                yield chunk(shape.begin(index))
            elif isinstance(event, Piece):
                yield chunk(shape.piece(index, event))
            elif isinstance(event, Done):
                yield chunk(shape.end(index, event.reason))
            elif isinstance(event, Failed):
                yield sse(refusal(raised(event)).body())
                return
    if wants_usage:
        yield sse({**head, "choices": [], "usage": _usage(requests, answers)})
    yield "data: [DONE]\n\n"

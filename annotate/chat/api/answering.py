"""Requests on their way to an HTTP answer: whole, or as server-sent events."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse

from annotate.chat.api.protocol import refusal, sse, usage
from annotate.chat.api.shapes import Shape, TextShape
from rlhf.serving.completions import Answer, Done, Event, Failed, Piece, Queued, Request, Started
from rlhf.serving.engine_process import EngineProcess, raised


@dataclass(frozen=True)
class Asked:
    """What one body asks for: `num_choices` answers in a row to each of its prompts, by one model."""

    model: str
    folder: str
    requests: Sequence[Request]
    num_choices: int
    shape: Shape
    wants_usage: bool = False  # in a stream


async def whole(engine: EngineProcess, asked: Asked) -> Response:
    """All answers at once. Raises InputError, EngineError; one failure ends the others."""
    answers = await engine.answers(asked.folder, asked.requests)
    choices = [asked.shape.whole(index, answer) for index, answer in enumerate(answers)]
    head = _head(asked.shape.kind, asked.shape.prefix, asked.model)
    return JSONResponse({**head, "choices": choices, "usage": _usage(asked, answers)})


def only_prompts(shape: TextShape, model: str, num_choices: int) -> Response:
    """The echoed prompts, to which nothing was added."""
    choices = [shape.whole(index, Answer(reason="length")) for index in range(len(shape.echoes))]
    num_tokens = sum(echo.num_tokens for echo in shape.echoes[::num_choices])
    head = _head(shape.kind, shape.prefix, model)
    return JSONResponse({**head, "choices": choices, "usage": usage(num_tokens, 0)})


def _usage(asked: Asked, answers: Sequence[Answer]) -> dict[str, int]:
    """Several choices of one prompt count it once."""
    return usage(
        sum(answer.prompt_tokens for answer in answers[:: asked.num_choices]),
        sum(answer.completion_tokens for answer in answers),
    )


def _head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


async def streamed(engine: EngineProcess, asked: Asked) -> Response:
    """The answers as server-sent events. What fails before the first ones have started fails as a plain answer does."""
    events = engine.astreams(asked.folder, asked.requests)
    begun: list[tuple[int, Event]] = []
    num_first = min(len(asked.requests), engine.max_rows)  # the others follow when one of these has ended
    try:
        while len({index for index, _ in begun}) < num_first:
            begun.append(await anext(events))
            if isinstance(event := begun[-1][1], Failed):
                raise raised(event)
    except BaseException:
        await events.aclose()
        raise
    chunks = _chunks(_from_the_beginning(begun, events), asked)
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


async def _chunks(events: AsyncGenerator[tuple[int, Event], None], asked: Asked) -> AsyncIterator[str]:
    shape = asked.shape
    head = _head(shape.chunk_kind, shape.prefix, asked.model)
    answers = [Answer() for _ in asked.requests]

    def chunk(choice: dict[str, Any]) -> str:
        return sse({**head, "choices": [choice], **({"usage": None} if asked.wants_usage else {})})

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
    if asked.wants_usage:
        yield sse({**head, "choices": [], "usage": _usage(asked, answers)})
    yield "data: [DONE]\n\n"

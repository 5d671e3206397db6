"""One question, one answer or two side by side: told while they are written, and kept however they end."""

import asyncio
import random
import time
import traceback
from typing import Any

from pydantic import BaseModel, Field

from annotate.app.rendering import rendered
from annotate.chat.checkpoints import Checkpoints
from annotate.chat.conversations import StoredMessage, add_message
from annotate.chat.running import Tell
from annotate.chat.tree import Tree, turn_json
from annotate.store.database import Database
from rlhf.data import Message
from rlhf.errors import InputError, RLHFError
from rlhf.serving.completions import Answer, Failed, Piece, Queued, Request, Started
from rlhf.serving.engine_process import EngineProcess, raised

RENDER_EVERY_S = 0.25  # between two renderings of an unfinished answer's Markdown
MAX_CHARS = 100_000


class Sampling(BaseModel):
    """How one answer is drawn."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    seed: int = 0


class Side(BaseModel):
    model: str
    sampling: Sampling = Sampling()


class Question(BaseModel):
    """content: the person's new turn after `parent`; without it the person's turn `parent` is answered (again).

    client_id: made by the page; everything that this question stores has it in its own id, so a retry stores nothing
    twice. blind: which side is which is told after the choice.
    """

    client_id: str = Field(min_length=8, max_length=48)
    parent: int | None = None
    content: str | None = Field(None, max_length=MAX_CHARS)
    system: str = Field("", max_length=MAX_CHARS)
    sides: list[Side] = Field(min_length=1, max_length=2)
    blind: bool = False


class Asking:
    """A question on its way to its answers."""

    def __init__(
        self,
        database: Database,
        engine: EngineProcess,
        owner: str,
        tree: Tree,
        question: Question,
        checkpoints: Checkpoints,
    ) -> None:
        """Raises InputError for settings out of range and unknown checkpoints, before anything is kept."""
        self.database, self.engine, self.owner, self.tree = database, engine, owner, tree
        self.question = question
        sides = list(question.sides)
        if question.blind and len(sides) == 2:
            random.SystemRandom().shuffle(sides)
        self.sides = sides
        self.checkpoints = [checkpoints.named(side.model) for side in sides]
        self.asked = self._ask()
        turns = self.tree.path(self.asked)
        if question.system:
            turns = [{"role": "system", "content": question.system}, *turns]
        self.requests = [self._request(side, turns) for side in sides]

    def _ask(self) -> int:
        """Keep the person's turn; returns its id."""
        question, tree = self.question, self.tree
        if question.content is None:
            if question.parent is None:
                raise InputError("there is no question")
            return tree.turn(question.parent, "user").id
        if not question.content.strip():
            raise InputError("the message is empty")
        if question.parent is not None:
            tree.turn(question.parent, "assistant")
        for side in question.sides:  # refused before the question is kept
            self._request(side, [{"role": "user", "content": question.content}])
        number = add_message(
            self.database, self.owner, tree.conversation, client_id=f"{question.client_id}-q", role="user",
            content=question.content, parent=question.parent,
        )  # fmt: skip
        self.tree = Tree.read(self.database, self.owner, tree.conversation)
        return number

    def _request(self, side: Side, turns: list[Message]) -> Request:
        return Request(
            messages=tuple(turns), drop_oldest=True, owner=self.owner, **side.sampling.model_dump()
        )

    async def run(self, tell: Tell) -> None:
        """Tell the question's turn, then what each side says, then each answer as it was kept.

        When it is cancelled the answers stop, and what there is of them is kept.
        """
        question = turn_json(self.tree.nodes[self.asked], hidden=False)
        names = ["" if self._is_blind else checkpoint.name for checkpoint in self.checkpoints]
        tell({"type": "question", "message": question, "models": names})
        await asyncio.gather(*(self._side(place, tell) for place in range(len(self.sides))))

    async def _side(self, place: int, tell: Tell) -> None:
        answer = Answer()
        try:
            try:
                await self._written(place, answer, tell)
            except asyncio.CancelledError:
                answer.reason = "cancelled"
            if answer.reason:
                message = await asyncio.shield(asyncio.to_thread(self._keep, place, answer))
                tell({"side": place, "type": "answer", "message": turn_json(message, self._is_blind)})
        except RLHFError as error:
            tell({"side": place, "type": "failed", "error": str(error)})
        except Exception as error:  # a page that waits must hear of it
            traceback.print_exception(error)
            tell(
                {
                    "side": place,
                    "type": "failed",
                    "error": f"{type(error).__name__}; the server's log has more",
                }
            )

    async def _written(self, place: int, answer: Answer, tell: Tell) -> None:
        """The engine's events, told and taken into `answer`."""
        told_at = time.monotonic()
        async for event in self.engine.astream(self.checkpoints[place].folder, self.requests[place]):
            answer.add(event)
            if isinstance(event, Queued):
                tell({"side": place, "type": "queued", "place": event.place})
            elif isinstance(event, Started):
                tell({"side": place, "type": "started", "dropped": event.dropped})
            elif isinstance(event, Piece):
                tell({"side": place, "type": "piece", "text": event.text})
                if time.monotonic() - told_at > RENDER_EVERY_S:
                    told_at = time.monotonic()
                    tell({"side": place, "type": "text", "nodes": rendered(answer.text)["nodes"]})
            elif isinstance(event, Failed):
                raise raised(event)

    @property
    def _is_blind(self) -> bool:
        return self.question.blind and len(self.sides) == 2

    def _keep(self, place: int, answer: Answer) -> StoredMessage:
        sampling: dict[str, Any] = self.sides[place].sampling.model_dump()
        extras = {"dropped": answer.dropped, "system": self.question.system, "reason": answer.reason}
        sampling |= {name: value for name, value in extras.items() if value}
        if len(self.sides) == 2:
            sampling["pair"] = {"id": self.question.client_id, "place": place, "blind": self._is_blind}
        number = add_message(
            self.database, self.owner, self.tree.conversation, client_id=f"{self.question.client_id}-{place}",
            role="assistant", content=answer.text.strip(), parent=self.asked, ended=answer.reason == "stop",
            checkpoint=self.checkpoints[place].name, sampling=sampling,
        )  # fmt: skip
        return Tree.read(self.database, self.owner, self.tree.conversation).nodes[number]

"""What a person at a terminal says about an answer: it goes into the label store, as on the chat page."""

import random
import uuid
from collections.abc import Callable
from typing import Any

from rlhf.data import Message
from rlhf.errors import InputError
from stages.talk.conversation import Conversation, Said
from stages.talk.line_editor import LineEditor

VERDICTS = {"a": "a", "b": "b", "t": "tie", "tie": "tie", "n": "both_bad", "neither": "both_bad"}
Say = Callable[[str], None]


class Feedback:
    """/good, /bad, /edit and /compare. say: what the person reads; note: what is no answer."""

    def __init__(
        self, conversation: Conversation, lines: LineEditor, say: Say, note: Say, labels_url: str
    ) -> None:
        self.conversation, self.lines, self.labels_url = conversation, lines, labels_url
        self.say, self.note = say, note

    def answered(self) -> Said:
        """The last answer. Raises InputError where there is none."""
        if self.conversation.last is None or not self.conversation.last.text.strip():
            raise InputError("there is no answer yet")
        return self.conversation.last

    def thumb(self, up: bool) -> None:
        said = self.answered()
        self.remember("record_thumb", said.prompt, said, up)
        self.say("(kept: good)" if up else "(kept: bad)")

    def edit(self, text: str) -> None:
        said = self.answered()
        better = text or (self.lines.read("better: ", said.text.strip()) or "").strip()
        if not better or better == said.text.strip():
            self.say("(unchanged)")
            return
        self.remember("record_rewrite", said.prompt, said, better)
        self.conversation.messages[-1]["content"] = better
        self.say("(kept as a demonstration; the conversation goes on with it)")

    def compare(self, name: str) -> None:
        """Another answer to what the last one was given; both in random order, without names until the choice.

        Raises InputError where the other checkpoint has no room for all of that.
        """
        conversation, first = self.conversation, self.answered()
        if name:
            conversation.models.engine(name)  # a wrong name is said before anything is lost
        answer, kept = conversation.messages.pop(), first
        try:
            both = [first, self._another(first, name)]
            random.SystemRandom().shuffle(both)
            for letter, said in zip("AB", both, strict=True):
                self.say(f"{letter}: {said.text.strip()}")
            verdict = VERDICTS.get(
                (self.lines.read("better? a, b, t (tie), n (neither): ") or "").strip().lower()
            )
            if verdict is None:
                self.say("(no choice kept)")
                return
            self.remember("record_comparison", first.prompt, *both, verdict)
            kept = {"a": both[0], "b": both[1]}.get(verdict, first)
            if kept is not first:  # which may stand there in words of the person's own, by /edit
                answer = {"role": "assistant", "content": kept.text.strip()}
            self.say(f"(kept: {verdict}; A was {both[0].checkpoint}, B was {both[1].checkpoint})")
        finally:  # Ctrl-C, too, leaves the conversation with an answer, and with what is known of that one
            conversation.last = kept
            conversation.messages.append(answer)

    def _another(self, first: Said, name: str) -> Said:
        for _ in self.conversation.answer(self.note, name or None, first.prompt):
            if self.conversation.last and self.conversation.last.prompt != first.prompt:
                break
        said = self.conversation.last
        assert said is not None
        if said.prompt != first.prompt:
            raise InputError(
                f"{said.checkpoint}: less of the conversation fits its context than {first.checkpoint} was given; "
                "answers to different prompts are not compared"
            )
        return said

    def remember(self, how: str, prompt: list[Message], *said: Any) -> None:
        """Write feedback into the label store, under the account of this machine."""
        from annotate.chat import feedback
        from annotate.labels import LabelStore
        from annotate.store.accounts import local_account

        given = [
            feedback.ChatAnswer(
                text=one.text.strip(), checkpoint=one.checkpoint, sampling=one.sampling, ended=one.ended
            )
            if isinstance(one, Said)
            else one
            for one in said
        ]
        with LabelStore(self.labels_url) as labels:
            name = local_account(labels.database).name
            getattr(feedback, how)(labels.database, name, uuid.uuid4().hex, prompt, *given)

"""Continuous batching: many answers are written at once, a request joins or leaves between two tokens.

A step of `Engine` lets waiting requests in, reads a bounded number of prompt tokens, and adds one token to every
running answer. An answer depends on its request and seed only, not on who else is being answered: its random numbers
are those that `generate` draws for a batch of one, so up to the rounding of the matrix products it is the same.
"""

import math
import time
import traceback
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.errors import EngineError, InputError
from rlhf.models.checkpoints import check_fits, context_length, num_tokens_of
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sampling.decoder import decoder_for
from rlhf.sampling.generate import SamplingSettings, draw
from rlhf.sampling.trial import NO_NUMBERS
from rlhf.serving.completions import Done, Event, Failed, Piece, Queued, Request, Started, TokenInfo
from rlhf.serving.grammar import Grammars
from rlhf.serving.logits import LogitChanges, logit_changes
from rlhf.serving.prompts import fit, longest_answer

TURN_S = 1.0  # who has waited so long gets the slot of an answer that has been written for so long,
TURN_READINGS = (
    5  # and for so many times what its reading took, so that reading again takes a fifth of the time
)
PREFILL_TOKENS = 256  # prompt tokens read per step, so that a long prompt does not hold up the others
LONGEST_CHARACTER = 4  # bytes, and tokens at most
LONGEST_WINDOW = 16  # tokens that are decoded together for the text of the newest one


class TextStream:
    """Tokens in, text out: whole characters only, and nothing from a stop text on.

    A token's text depends on those before it, so the latest ones are decoded together. goes_on: the tokens continue a
    text, so that a space at their beginning (which SentencePiece leaves out where a text begins) is part of theirs.
    """

    def __init__(self, tokenizer: AnyTokenizer, stop: Sequence[str], goes_on: bool = False) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        # The latest tokens, from the beginning of a character on.
        self.window: list[int] = tokenizer.encode("a")[-1:] if goes_on else []
        self.shown = tokenizer.decode(self.window)  # the window's text that was taken
        # Tokens of the window up to the last whole character that was taken.
        self.num_whole = len(self.window)
        self.characters = getincrementaldecoder("utf-8")("replace")
        self.num_open = 0  # tokens that have begun or continued a character since the last text
        self.held = ""  # may be the beginning of a stop text
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain now."""
        self.window.append(token)
        self.characters.decode(self.tokenizer.token_bytes(token))
        text = self.tokenizer.decode(self.window)
        if self.characters.getstate()[0] and self.num_open < LONGEST_CHARACTER:
            text = text.rstrip("\ufffd")  # the rest of a character is on its way
            # Single bytes in a row are U+FFFD, all of them, until the last character is whole (byte fallback).
            new = self._taken(text) if text.startswith(self.shown) else ""
            self.num_open = 1 if new else self.num_open + 1
            return self._before_stop(new)
        new, self.num_open = self._taken(text), 0
        if new and len(self.window) > LONGEST_WINDOW:
            self.window = self.window[self.num_whole :]
            self.shown = self.tokenizer.decode(self.window)
        if new:  # else the window might begin with a space that does not begin the text
            self.num_whole = len(self.window)
        return self._before_stop(new)

    def flush(self) -> str:
        """What was held back, once no token follows."""
        text = self._before_stop(self._taken(self.tokenizer.decode(self.window)))
        return text if self.stopped else text + self.held

    def _taken(self, text: str) -> str:
        """What the window's text has beyond what was shown of it."""
        before, self.shown = self.shown, text
        if text.startswith(before):
            return text[len(before) :]
        # A wrong byte behind others has made U+FFFD of characters that were shown (byte fallback).
        return self.tokenizer.decode(self.window[self.num_whole :])

    def _before_stop(self, new: str) -> str:
        text, self.held = self.held + new, ""
        found = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        for size in range(min(len(text), max(map(len, self.stop), default=1) - 1), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.stop):
                self.held = text[-size:]
                return text[:-size]
        return text


@dataclass
class _Row:
    """One request on its way: what it asked, and what it has been told."""

    key: str
    request: Request
    prompt: list[int]
    dropped: int
    limit: int  # new tokens, at most
    text: TextStream
    changes: LogitChanges | None = None
    failure: str = ""
    completion: list[int] = field(default_factory=list)
    place: int = 0
    slot: int = -1  # of the decoder
    num_read: int = 0  # tokens in the slot, while it is read
    read_s: float = 0.0  # that its latest reading took
    since: float = field(default_factory=lambda: time.monotonic())  # it waits, is read or writes
    left_s: float = 0.0  # to write, when it was last begun
    settings: SamplingSettings = field(init=False)
    uniforms: Any = field(init=False)

    def __post_init__(self) -> None:
        asked = self.request
        self.settings = SamplingSettings(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
        )
        self.left_s = asked.timeout_s
        self.uniforms = np.random.Generator(np.random.Philox(asked.seed)).random(self.limit)

    def changed(self, logits: Tensor) -> Tensor:
        """Logits (V,) as the request wants them; what goes wrong there ends this row alone."""
        try:
            return self.changes(logits) if self.changes else logits
        except EngineError as error:
            self.failure = str(error)
            return logits


class Engine:
    """One model answering up to `max_rows` requests at a time; `max_waiting` more may stand in line."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: AnyTokenizer,
        max_rows: int = 16,
        max_waiting: int = 64,
        packed: bool = False,
    ) -> None:
        check_fits(tokenizer, model, model.name_or_path or "model")
        self.tokenizer, self.num_tokens = tokenizer, min(tokenizer.vocab_size, num_tokens_of(model))
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.grammars = Grammars(tokenizer)
        self.scored = max_rows  # the slot of a text that is not answered but scored
        self.decoder = decoder_for(model.eval(), max_rows + 1, packed)
        self.free = list(range(max_rows))  # slots
        self.context = context_length(model.config)
        self.waiting: list[_Row] = []
        self.reading: list[_Row] = []
        self.running: list[_Row] = []
        self.events: list[tuple[str, Event]] = []
        self.made_way_at = 0.0
        self.is_others_turn = False  # to be given a token, before more prompts are read

    @property
    def num_requests(self) -> int:
        """Requests that wait, are read or are answered."""
        return len(self.waiting) + len(self.reading) + len(self.running)

    def submit(self, key: str, request: Request, follows: bool = False) -> None:
        """Put a request in line; what becomes of it, a refusal too, is told by the events of `step` under its key.

        follows: it takes the place of one that has ended, so that a full line does not refuse it.
        """
        num_free = self.max_rows - len(self.reading) - len(self.running)
        if not follows and len(self.waiting) >= num_free + self.max_waiting:
            full = f"{len(self.waiting)} requests are waiting already; try again in a moment"
            self.events.append((key, Failed(full, "busy")))
            return
        try:
            prompt, dropped = fit(self.tokenizer, self.num_tokens, self.context, request)
            changes = logit_changes(request, self.num_tokens, self.grammars)
        except InputError as error:
            self.events.append((key, Failed.of_request(error)))
            return
        limit = longest_answer(self.context, prompt, request)
        text = TextStream(self.tokenizer, request.stop, bool(request.prompt or request.continue_last))
        self.waiting.append(_Row(key, request, prompt, dropped, limit, text, changes))

    @torch.inference_mode()
    def cancel(self, key: str) -> None:
        """Take a request out wherever it is; its slot is free at once."""
        for rows in (self.waiting, self.reading):
            for row in [row for row in rows if row.key == key]:
                rows.remove(row)
                self._free(row)
                self.events.append((key, Done("cancelled", len(row.completion))))
        for index, row in enumerate(self.running):
            if row.key == key:
                self._leave(index, "cancelled")
                return

    def stream(self, request: Request) -> Iterator[Event]:
        """The events of one request, for a program that asks one thing at a time; leaving the loop cancels it."""
        key = "stream"
        self.submit(key, request)
        try:
            while self.num_requests or self.events:
                yield from (event for _, event in self.step())
        finally:
            self.cancel(key)
            self.events.clear()

    @torch.inference_mode()
    def step(self) -> list[tuple[str, Event]]:
        """One token for every running answer; returns what there is to tell, by request.

        Where answers have just begun that is their first token, so that it can be told at once; the others' is due next.
        """
        self._make_way()
        self._admit()
        num_running = len(self.running)
        if not self.is_others_turn:
            self._read_prompts()
        self.is_others_turn = len(self.running) > num_running
        if self.running and not self.is_others_turn:
            last = torch.tensor([row.completion[-1] for row in self.running])
            self._say(self.running, self.decoder.step([row.slot for row in self.running], last))
            ends = [self._end(row) for row in self.running]
            for index in reversed(range(len(ends))):
                if ends[index]:
                    self._leave(index, ends[index])
        events, self.events = self.events, []
        return events

    def _make_way(self) -> None:
        """Let the answer that has been written longest go on later, once a turn, so that nobody waits for its end."""
        if not self.waiting or self.reading or len(self.running) < self.max_rows:
            return  # who is being read comes first: a slot more would only make the line before the decoder longer
        now = time.monotonic()
        if now - self.waiting[0].since < TURN_S:
            return
        had_turn = [
            index
            for index, row in enumerate(self.running)
            if now - max(row.since, self.made_way_at) >= max(TURN_S, TURN_READINGS * row.read_s)
        ]
        if not had_turn:
            return
        index = min(had_turn, key=lambda index: self.running[index].since)
        longest, self.running[index] = self.running[index], self.running[-1]
        self.running.pop()
        self._free(longest)
        longest.left_s -= now - longest.since
        self.made_way_at = longest.since = now
        longest.slot, longest.num_read = -1, 0
        self.waiting.append(longest)

    def _admit(self) -> None:
        """Fill free slots, the account with the fewest answers under way first, then in order of arrival."""
        while self.waiting and len(self.reading) + len(self.running) < self.max_rows:
            owners = [row.request.owner for row in self.reading + self.running]
            row = min(self.waiting, key=lambda row: owners.count(row.request.owner))
            self.waiting.remove(row)
            row.slot = self.free.pop(0)  # whose text was ended first
            self.reading.append(row)
            if not row.completion:
                self.events.append((row.key, Started(len(row.prompt), row.dropped)))
        for place, row in enumerate(self.waiting, start=1):
            if row.place != place and not row.completion:
                row.place = place
                self.events.append((row.key, Queued(place)))

    def _read_prompts(self) -> None:
        budget = PREFILL_TOKENS
        while self.reading and budget > 0:
            row = self.reading[0]
            tokens = row.prompt + row.completion  # an answer that has made way goes on
            if not row.num_read:
                row.since, row.num_read = time.monotonic(), self.decoder.recall(row.slot, tokens)
            chunk = tokens[row.num_read : row.num_read + budget]
            row.num_read += len(chunk)
            budget -= len(chunk)
            try:
                logits = self.decoder.read([row.slot], [chunk])
            except Exception as error:  # a prompt that the model cannot read, or that memory is too small for
                traceback.print_exception(error)
                self.reading.remove(row)
                self._free(row)
                self.events.append((row.key, Failed(f"{type(error).__name__}: {error}")))
                continue
            if row.num_read == len(tokens):
                self.reading.pop(0)
                self._start(row, logits)

    def _start(self, row: _Row, logits: Tensor) -> None:
        """Say the first token and join the batch, unless that was all."""
        now = time.monotonic()
        row.read_s, row.since = now - row.since, now
        self._say([row], logits)
        if reason := self._end(row):
            self._finish(row, reason)
            return
        self.running.append(row)

    def _free(self, row: _Row) -> None:
        if row.slot >= 0:
            self.decoder.forget(row.slot)
            self.free.append(row.slot)

    def _say(self, rows: Sequence[_Row], logits: Tensor) -> None:
        """Draw the next token of each row from logits (B, V), rows with the same settings together."""
        logits = logits[:, : self.num_tokens]  # embeddings beyond are padding and have no text
        infos = [self._info(row, logits[i]) for i, row in enumerate(rows)]
        logits = self._changed(rows, logits)
        groups: dict[SamplingSettings, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(row.settings, []).append(i)
        for settings, members in groups.items():
            uniforms = torch.tensor([rows[i].uniforms[len(rows[i].completion)] for i in members])
            some = logits if len(members) == len(rows) else logits[members]
            seen = None
            if settings.repetition_penalty != 1:
                seen = torch.zeros_like(some, dtype=torch.bool)
                for place, i in enumerate(members):
                    seen[place, rows[i].prompt + rows[i].completion] = True
            chosen, logprobs = draw(some, uniforms.to(logits.device), settings, seen)
            for i, token, logprob in zip(members, chosen.tolist(), logprobs.tolist(), strict=True):
                if math.isnan(logprob):
                    rows[i].failure = NO_NUMBERS
                else:
                    self._tell(rows[i], token, infos[i])

    def _changed(self, rows: Sequence[_Row], logits: Tensor) -> Tensor:
        if any(row.changes for row in rows):
            return torch.stack([row.changed(each) for row, each in zip(rows, logits, strict=True)])
        return logits

    def _tell(self, row: _Row, token: int, likely: Tensor | None) -> None:
        row.completion.append(token)
        if row.changes:
            row.changes.hear(token)
        text = "" if token in self.tokenizer.stop_ids else row.text.push(token)
        tokens = () if likely is None else (self._token_info(token, likely, row.request.alternatives),)
        if text or tokens:
            self.events.append((row.key, Piece(text, tokens)))

    def _info(self, row: _Row, logits: Tensor) -> Tensor | None:
        return logits.log_softmax(-1) if row.request.alternatives else None

    def _token_info(self, token: int, logprobs: Tensor, alternatives: int) -> TokenInfo:
        best = logprobs.topk(min(alternatives, len(logprobs)))
        likely = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        shown = tuple((self.tokenizer.token_bytes(i), value) for i, value in likely)
        return TokenInfo(self.tokenizer.token_bytes(token), float(logprobs[token]), shown)

    def _end(self, row: _Row) -> str:
        """Why the row ends with its latest token; empty where it goes on."""
        if row.failure:
            return "failed"
        if row.completion[-1] in self.tokenizer.stop_ids or row.text.stopped:
            return "stop"
        if len(row.completion) >= row.limit:
            return "length"
        return "time" if time.monotonic() - row.since > row.left_s else ""

    def _leave(self, index: int, reason: str) -> None:
        row, self.running[index] = self.running[index], self.running[-1]
        self.running.pop()
        self._finish(row, reason)

    def _finish(self, row: _Row, reason: str) -> None:
        self._free(row)
        if row.failure:
            self.events.append((row.key, Failed(row.failure)))
            return
        rest = "" if row.text.stopped or reason == "cancelled" else row.text.flush()
        if rest:
            self.events.append((row.key, Piece(rest)))
        self.events.append((row.key, Done(reason, len(row.completion))))

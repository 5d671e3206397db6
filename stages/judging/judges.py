"""Who says which answer is better: a reward model, a Python function, a rule, a model behind an endpoint, or people."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlhf.data import PromptRow, fingerprint
from rlhf.errors import InputError
from rlhf.inputs import locate_model
from rlhf.learning.reward_sources import is_function, load_function
from rlhf.learning.rewards import call_function, score_completions
from rlhf.machine.devices import best_device
from rlhf.models.checkpoints import load_scalar
from rlhf.models.sources import content_hash
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Store
from stages.judging.answers import Answers, not_finite
from stages.judging.kept import MeasurementCache

BATCH_SIZE = 32
Outcome = float | None  # 1: the first answer is better, 0: the second, 0.5: a tie, None: not judged
TextScores = Callable[[Sequence[PromptRow], Answers], list[float | None]]


class Judge(Protocol):
    """Compares the answers of two policies to the same prompts."""

    @property
    def name(self) -> str: ...

    def compare(
        self, rows: Sequence[PromptRow], answers: Mapping[str, Answers], policy: str, against: str
    ) -> list[Outcome]:
        """For each prompt which of the two policies' answers is better."""

    def scores(self, rows: Sequence[PromptRow], whose: str, answers: Answers) -> list[float | None] | None:
        """A number for each answer, of which the higher is better; None of a judge that only compares."""


@dataclass(frozen=True)
class Scorer:
    """A judge by numbers. key: what changes with it; kept: where its scores are kept.

    reads_ends: whether an answer's score depends on how it ended, too, and not on its text alone.
    """

    name: str
    key: str
    score: TextScores
    kept: MeasurementCache
    reads_ends: bool = False

    def scores(self, rows: Sequence[PromptRow], whose: str, answers: Answers) -> list[float | None]:
        prompts = [[row.prompt, row.columns] for row in rows]
        return self.kept.get_or_measure(
            f"{self.name} scores of {whose}",
            [self.key, prompts, answers.texts, answers.ended],
            lambda: self._numbers(rows, answers),
        )

    def _numbers(self, rows: Sequence[PromptRow], answers: Answers) -> list[float | None]:
        """The scores. Raises InputError for one that is no finite number."""
        scores = self.score(rows, answers)
        for (row, _), score in zip(_beside(rows, answers), scores, strict=True):
            if score is not None and not math.isfinite(score):
                raise not_finite(f"judge {self.name}", row.prompt)
        return scores

    def compare(
        self, rows: Sequence[PromptRow], answers: Mapping[str, Answers], policy: str, against: str
    ) -> list[Outcome]:
        mine, theirs = answers[policy], answers[against]
        pairs = zip(mine.texts, theirs.texts, mine.ended, theirs.ended, strict=True)
        # A model's score of one text differs by rounding with the batch that it was read in.
        equal = [one == other and (ended == its or not self.reads_ends) for one, other, ended, its in pairs]
        scores = [self.scores(rows, name, answers[name]) for name in (policy, against)]
        return [_better(*three) for three in zip(*scores, equal, strict=True)]


def _better(mine: float | None, theirs: float | None, is_same: bool) -> Outcome:
    if mine is None or theirs is None:
        return None
    return 0.5 if is_same or mine == theirs else float(mine > theirs)


def named_scorer(store: Store, name: str, kept: MeasurementCache) -> Scorer:
    """A reward model or module:function by its name. Raises InputError where there is none, before anything is sampled."""
    if is_function(name):
        function, code = load_function(name)
        return Scorer(name, fingerprint(code), lambda rows, given: by_function(function, rows, given), kept)
    folder, entry = locate_model(store, name)
    load_scalar(folder)  # refuses what is no reward model
    called = entry.ref if entry else Path(name).name
    return model_scorer(folder, entry.hash if entry else content_hash(name), called, kept)


def model_scorer(folder: str | Path, key: str, name: str, kept: MeasurementCache) -> Scorer:
    """The reward model in a folder."""
    return Scorer(name, key, lambda rows, given: by_model(folder, rows, given), kept)


def by_model(folder: str | Path, rows: Sequence[PromptRow], answers: Answers) -> list[float | None]:
    """A reward model's score of each answer; there may be several per prompt, in a row."""
    model, tokenizer = load_scalar(folder).to(best_device()), load_tokenizer(folder)
    texts = [(row.prompt, text) for row, text in _beside(rows, answers)]
    return list(score_completions(model, tokenizer, texts, BATCH_SIZE))


def by_function(function: Any, rows: Sequence[PromptRow], answers: Answers) -> list[float | None]:
    """A Python function's score of each answer; None where it does not judge."""
    beside = _beside(rows, answers)
    scores = call_function(
        function, [row.prompt for row, _ in beside], [text for _, text in beside], [row.columns for row, _ in beside]
    )  # fmt: skip
    return [None if math.isnan(score) else score for score in scores]


def _beside(rows: Sequence[PromptRow], answers: Answers) -> list[tuple[PromptRow, str]]:
    n = len(answers.texts) // len(rows)
    return list(zip((row for row in rows for _ in range(n)), answers.texts, strict=True))


def named_judge(
    store: Store, name: str, kept: MeasurementCache, labels_url: str | Path | None, batch: str | None
) -> Judge:
    """The judge that --judge names. Raises InputError for one that is not there."""
    if name == "people":
        from stages.judging.people import People

        if batch is None:
            raise InputError("people need a name for their batch: give the report one with --name")
        return People(labels_url, batch, kept.say)
    if name.startswith(("http://", "https://")):
        from stages.judging.endpoint import Endpoint

        return Endpoint.named(name, kept)
    return named_scorer(store, name, kept)

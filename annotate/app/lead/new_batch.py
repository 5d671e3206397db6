"""A batch from a lead's file and settings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from annotate.answers.foreign import read_labels, read_to_rate
from annotate.answers.importing import Imported, gold_questions, import_prompts, import_rankings
from annotate.store.database import Database
from annotate.work.asks import FLAGS, Asks
from annotate.work.batches import BatchSettings, NewTask
from annotate.work.live import add_live_batch
from rlhf.data import Prompt, read_options, read_prompts
from rlhf.errors import InputError, LabelError


def first_problem(error: ValidationError) -> str:
    """The field and what is wrong with it, in one line; of several the first."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def flags_named(names: Sequence[str]) -> tuple[str, ...]:
    """Flags by name; "all" alone means every one."""
    return FLAGS if list(names) == ["all"] else tuple(names)


class BatchIn(BaseModel):
    """How a batch is labeled. flags: names, or ["all"]; quota 0: without limit; gold_every: one in so many tasks.

    scale: ratings go from 1 to this. comment_below: the rating below which a comment is owed, 0 for never. shown_order: of a task's answers, random for each
    labeler or fixed as in the file.
    """

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=200)
    kind: Literal["rank", "compare", "demonstrate", "rate"] = "rank"
    guidelines: str = Field(default="", max_length=200_000)
    overlap: int = Field(default=1, ge=1, le=1000)
    quota: int = Field(default=0, ge=0)
    task_order: Literal["random", "priority"] = "random"
    gold_every: int = Field(default=10, ge=1)
    ratings: bool = False
    flags: list[str] = Field(default=[], max_length=len(FLAGS))
    comment: bool = True
    none_acceptable: bool = False
    strength: bool = False
    scale: int = Field(default=7, ge=2, le=10)
    comment_below: int = Field(default=0, ge=0, le=10)
    shown_order: Literal["random", "fixed"] = "random"
    may_skip: bool = True
    show_progress: bool = True
    keep_ranks: bool = False

    def settings(self) -> BatchSettings:
        """The store's settings."""
        asks = Asks(
            ratings=self.ratings,
            flags=flags_named(self.flags),
            comment=self.comment,
            none_acceptable=self.none_acceptable,
            strength=self.strength,
            scale=self.scale,
            comment_below=self.comment_below,
            shown_order=self.shown_order,
            may_skip=self.may_skip,
            show_progress=self.show_progress,
        )
        return BatchSettings(
            name=self.name,
            kind=self.kind,
            guidelines=self.guidelines,
            overlap=self.overlap,
            asks=asks,
            quota=self.quota,
            task_order=self.task_order,
            gold_every=self.gold_every,
        )


class UploadIn(BatchIn):
    """sample_from: the checkpoint that answers the file's prompts, k times each, while people label; empty for none.

    map, answers, left, skip_bad_rows: how the file is read, as `rlhf labels import` takes them.
    """

    sample_from: str = Field(default="", max_length=300)
    k: int = Field(default=4, ge=2, le=9)
    map: str = Field(default="", max_length=2000)
    answers: str = Field(default="", max_length=2000)
    left: str = Field(default="", max_length=300)
    skip_bad_rows: bool = False


class Sampler(Protocol):
    """What asks checkpoints for fresh answers, in a process of its own."""

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints there are."""

    def start(self) -> None:
        """Have the process run, from now on; it may run already."""


def task_of(
    prompt: Any, completions: list[str], checkpoints: list[str], gold: list[int] | None, priority: float
) -> NewTask:
    """A task from a request's values."""
    known = None if gold is None else tuple(gold)
    return NewTask(
        prompt=prompt,
        completions=tuple(completions),
        checkpoints=tuple(checkpoints),
        gold=known,
        priority=priority,
    )


def make_batch(
    database: Database,
    new: UploadIn,
    path: Path,
    shown_as: str,
    gold: Path | None = None,
    sampler: Sampler | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Make a batch from a file as `rlhf labels import` reads it; errors, and what was read, name it as the lead knows it.

    sample_from: the file holds prompts, and `sampler` is started for their answers. keep_ranks: the file's ranks count
    as answers of its labelers; otherwise everything is ranked anew. gold: a file of rankings that become gold questions.
    Nothing is made where any of it fails.
    """
    settings = new.settings()
    options = read_options(new, lambda line: say(line.replace(str(path), shown_as)))
    try:
        known = gold_questions(read_labels(str(gold)) if gold else ())
        if new.kind == "demonstrate":
            prompts = read_prompts(str(path), options=options)
            return import_prompts(database, settings, prompts, gold=known)
        if new.sample_from:
            return _live(database, new, read_prompts(str(path), options=options), known, sampler)
        read = read_to_rate if new.kind == "rate" else read_labels
        rankings = read(str(path), options=options)
        return import_rankings(database, settings, rankings, new.keep_ranks, gold=known)
    except InputError as error:
        told = str(error).replace(str(path), shown_as)
        raise InputError(told.replace(str(gold), gold.name) if gold else told) from None


def _live(
    database: Database,
    new: UploadIn,
    prompts: Sequence[Prompt],
    gold: Sequence[NewTask],
    sampler: Sampler | None,
) -> Imported:
    there = sampler.checkpoints() if sampler else []
    if sampler is None or new.sample_from not in there:
        raise LabelError(f"{new.sample_from}: no such checkpoint (there: {', '.join(there) or 'none'})")
    if new.kind != "rank":
        raise LabelError(f"batch {new.name}: fresh answers are ranked; choose the kind rank")
    add_live_batch(database, new.settings(), prompts, new.sample_from, new.k, gold=gold)
    sampler.start()
    return Imported(len(set(map(str, prompts))), 0)

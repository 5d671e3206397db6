"""Demonstrations as tokens with labels on what is to be learned: the assistant's answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from tqdm import tqdm

from rlhf.data import Demonstration, Message, as_messages
from rlhf.errors import InputError
from rlhf.machine import processes
from rlhf.models.tokenizer import AnyTokenizer
from stages.arrow import arrow_rows

NOT_LEARNED = -100  # torch's label that no loss counts
TOKENS = datasets.Sequence(datasets.Value("int32"))
FEATURES = datasets.Features({"input_ids": TOKENS, "labels": TOKENS})
Example = dict[str, list[int]]


@dataclass(frozen=True)
class Extent:
    """How much of a demonstration is learned.

    max_length: tokens of a row; a longer one loses its end, or with skip_long is left out. turns: "all" answers of the
    assistant, or the "last".
    """

    max_length: int
    turns: str = "all"
    skip_long: bool = False


@dataclass
class Counts:
    """What became of demonstrations: those learned from, answers in them, those cut, those left out as too long."""

    demonstrations: int = 0
    answers: int = 0
    cut: int = 0
    left_out: int = 0

    def line(self, max_length: int) -> str:
        """The counts in one line."""
        parts = [f"{self.answers:,} answers to learn in {self.demonstrations:,} demonstrations"]
        if self.cut:
            share = 100 * self.cut / self.demonstrations
            parts.append(f"{share:.1f} % of them cut at max_length = {max_length}")
        if self.left_out:
            parts.append(f"{self.left_out:,} demonstrations left out, too long for max_length = {max_length}")
        return "; ".join(parts)


def tokenize_demonstrations(
    rows: Sequence[Demonstration], tokenizer: AnyTokenizer, extent: Extent, folder: Path
) -> tuple[datasets.Dataset, Counts]:
    """A data set with `input_ids` and `labels` (int32, −100 on what is not learned), in Arrow files under `folder`.

    A row is left out whose first answer has no room in max_length. Raises InputError if none is left.
    """
    counts = Counts()

    def examples() -> Iterator[Example]:
        for row in tqdm(rows, "tokens", delay=1, mininterval=1, disable=not processes.is_main_process()):
            yield from _counted(row, tokenizer, extent, counts)

    made = arrow_rows(examples(), FEATURES, folder)
    if not len(made):
        raise InputError(
            f"no demonstration leaves room for an answer within max_length = {extent.max_length}; raise it"
        )
    return made, counts


def _counted(
    row: Demonstration, tokenizer: AnyTokenizer, extent: Extent, counts: Counts
) -> Iterator[Example]:
    is_long = False
    found = []
    for example in encode_demonstration(row, tokenizer, extent.turns):
        is_long |= len(example["input_ids"]) > extent.max_length
        cut = {name: tokens[: extent.max_length] for name, tokens in example.items()}
        if cut["labels"].count(NOT_LEARNED) < len(cut["labels"]):
            found.append(cut)
    if not found or (is_long and extent.skip_long):
        counts.left_out += 1
        return
    counts.demonstrations += 1
    counts.cut += is_long
    counts.answers += sum(_num_answers(example["labels"]) for example in found)
    yield from found


def _num_answers(labels: list[int]) -> int:
    """Runs of labels that are learned."""
    num_learned = len(labels) - labels.count(NOT_LEARNED)
    if NOT_LEARNED not in labels[-num_learned:]:
        return 1
    learned = [label != NOT_LEARNED for label in labels]
    return sum(now and not before for before, now in zip([False, *learned], learned, strict=False))


def encode_demonstration(row: Demonstration, tokenizer: AnyTokenizer, turns: str) -> list[Example]:
    """The conversation as tokens with labels on the answers that are learned, in one row.

    A chat template may write an earlier answer differently from the one it asks for, or leave it out: such an answer
    becomes a row of its own, as the model will be asked for it.
    """
    messages = as_messages(row.prompt)
    whole = _example(tokenizer, messages, row.completion)
    apart = []
    for place in _earlier_answers(row, messages) if turns == "all" else ():
        earlier = _example(tokenizer, messages[:place], messages[place]["content"])
        end = len(earlier["input_ids"])
        if whole["input_ids"][:end] == earlier["input_ids"]:
            whole["labels"][:end] = [
                old if new == NOT_LEARNED else new
                for old, new in zip(whole["labels"][:end], earlier["labels"], strict=True)
            ]
        else:
            apart.append(earlier)
    return [*apart, whole]


def _earlier_answers(row: Demonstration, messages: list[Message]) -> list[int]:
    """Places of the assistant's turns in the prompt that are to be learned."""
    return [
        place
        for place, message in enumerate(messages)
        if place and message["role"] == "assistant" and place not in row.unlearned
    ]


def _example(tokenizer: AnyTokenizer, messages: list[Message], answer: str) -> Example:
    prompt = tokenizer.encode_prompt(messages)
    completion = tokenizer.encode_completion(answer, messages)
    return {"input_ids": prompt + completion, "labels": [NOT_LEARNED] * len(prompt) + completion}

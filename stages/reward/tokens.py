"""Rankings as tokens: each completion behind its prompt, cut and closed as a reward model will score it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from rlhf.data import as_messages
from rlhf.errors import InputError
from rlhf.learning.rewards import cut_row
from rlhf.machine import processes
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.splits import conversation_key
from stages.arrow import arrow_rows
from stages.reward.data import RankedPrompt

LISTS = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
FEATURES = datasets.Features(
    {
        "rows": LISTS,
        "ranks": LISTS,
        "num_words": datasets.Sequence(datasets.Value("int32")),
        "conversation": datasets.Value("string"),
    }
)
Example = dict[str, Any]


@dataclass
class Counts:
    """What became of rankings: prompts read, completions of them, those cut, and prompts left out by reason."""

    prompts: int = 0
    completions: int = 0
    cut: int = 0
    equal: int = 0
    too_long: int = 0

    def line(self, max_length: int) -> str:
        """The counts in one line."""
        share = 100 * self.cut / max(1, self.completions)
        parts = [f"{self.prompts:,} prompts with {self.completions:,} answers"]
        if self.cut:
            parts.append(f"{share:.1f} % of the answers cut at max_length = {max_length}")
        if self.equal:
            parts.append(f"{self.equal:,} prompts left out, their answers equal once cut")
        if self.too_long:
            parts.append(
                f"{self.too_long:,} prompts left out, an answer too long for max_length = {max_length}"
            )
        return "; ".join(parts)


def encode_completions(
    group: RankedPrompt, tokenizer: AnyTokenizer, max_length: int
) -> tuple[list[list[int]], int]:
    """Prompt with completion as tokens for each of K completions, and how many completions were cut.

    Each is cut by `cut_row`.
    """
    prompt = tokenizer.encode_prompt(as_messages(group.prompt))
    completions = [tokenizer.encode_completion(text, group.prompt) for text in group.completions]
    rows = [cut_row(prompt, tokens, max_length, tokenizer.eos_id) for tokens in completions]
    num_cut = sum(row[-len(said) :] != said for row, said in zip(rows, completions, strict=True))
    return rows, num_cut


def encode_rankings(
    groups: Iterable[RankedPrompt],
    tokenizer: AnyTokenizer,
    max_length: int,
    skip_long: bool,
    counts: Counts,
) -> Iterator[Example]:
    """For each prompt `rows` (K lists of tokens), `ranks` (labelers × K), `num_words` of the K completions, `conversation`.

    The last is the prompt's `conversation_key`: rows of one conversation are not independent of each other.
    Left out are prompts whose answers are equal once cut, and with skip_long those with an answer that would be cut.
    """
    for group in groups:
        rows, num_cut = encode_completions(group, tokenizer, max_length)
        if num_cut and skip_long:
            counts.too_long += 1
            continue
        places = distinct_places(rows, group.ranks)
        ranks = [[given[i] for i in places] for given in group.ranks]
        ranks = [given for given in ranks if len(set(given)) > 1]
        if not ranks:
            counts.equal += 1
            continue
        counts.prompts += 1
        counts.completions += len(rows)
        counts.cut += num_cut
        num_words = [len(group.completions[i].split()) for i in places]
        yield {
            "rows": [rows[i] for i in places],
            "ranks": ranks,
            "num_words": num_words,
            "conversation": conversation_key(group.prompt),
        }


def distinct_places(rows: Sequence[list[int]], ranks: Sequence[Sequence[int]]) -> list[int]:
    """Places of the rows of tokens that a model can tell apart: of twins with equal ranks the first, of others none.

    A preference between twins was given for what was cut off.
    """
    twins: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(rows):
        twins.setdefault(tuple(row), []).append(place)
    kept = [
        places[0]
        for places in twins.values()
        if all(len({given[place] for place in places}) == 1 for given in ranks)
    ]
    return sorted(kept)


def tokenize_rankings(
    groups: Sequence[RankedPrompt],
    tokenizer: AnyTokenizer,
    max_length: int,
    folder: Path,
    skip_long: bool = False,
) -> tuple[datasets.Dataset, Counts]:
    """`encode_rankings` as a data set in Arrow files under `folder`. Raises InputError if nothing is left."""
    counts = Counts()

    def examples() -> Iterator[Example]:
        shown = tqdm(groups, "tokens", delay=1, mininterval=1, disable=not processes.is_main_process())
        yield from encode_rankings(shown, tokenizer, max_length, skip_long, counts)

    made = arrow_rows(examples(), FEATURES, folder)
    if not len(made):
        raise InputError(
            f"no ranking is left within max_length = {max_length}: {counts.line(max_length)}; raise it"
        )
    return made, counts

"""What a source looks like to a reader: counts, lengths, the first rows as they would be read."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from rlhf.data.formats.table import DEMONSTRATIONS, PROMPTS, RANKINGS, TEXTS
from rlhf.data.parser import ReadOptions
from rlhf.data.reading import read_demonstrations, read_prompts, read_rankings, read_texts
from rlhf.data.rows import Demonstration, Ranking, as_messages
from rlhf.data.spool import Rows
from rlhf.errors import NoSuchData
from rlhf.splits import conversation_key

READERS: dict[str, Callable[..., Rows[Any]]] = {
    RANKINGS: read_rankings, DEMONSTRATIONS: read_demonstrations, TEXTS: read_texts, PROMPTS: read_prompts,
}  # fmt: skip
NUM_SHOWN = 3
Lengths = tuple[str, Callable[[str], int]]  # the unit, and how many a text has


def read_as(source: str, use: str | None, options: ReadOptions) -> Rows[Any]:
    """The source's rows for a use, or for the first use that it holds data of.

    Raises InputError for a row that cannot be read, and that of the first use where it holds data of none.
    """
    if use is not None:
        return READERS[use](source, options=options)
    problems = []
    for read in READERS.values():
        try:
            return read(source, options=options)
        except NoSuchData as problem:
            problems.append(problem)
    raise problems[0]


def described(
    rows: Rows[Any], lengths: Lengths, max_length: int, others: Mapping[str, Rows[Any]] | None = None
) -> dict[str, Any]:
    """The account of the rows, their lengths and share longer than max_length, and the first as they would be read."""
    unit, count = lengths
    sizes = [max(count(text) for text in sides(row)) for row in rows]
    account = rows.account.manifest()
    mine = {conversation_key(prompt) for row in rows if (prompt := prompt_in(row)) is not None}
    shared = {
        name: len(
            mine & {conversation_key(prompt) for row in other if (prompt := prompt_in(row)) is not None}
        )
        for name, other in (others or {}).items()
    }
    return {
        "summary": rows.account.line(),
        **account,
        "conversations": len(mine),
        f"median_{unit}": median(sizes),
        f"longest_{unit}": max(sizes),
        "longer_than": f"{100 * sum(size > max_length for size in sizes) / len(sizes):.1f} % are longer than {max_length} {unit}",
        "shared_conversations": shared,
        "first_rows": [shown(row) for row in rows[:NUM_SHOWN]],
    }


def prompt_in(row: Any) -> Any:
    """The prompt of a result; None for a text."""
    if isinstance(row, Ranking | Demonstration):
        return row.prompt
    return row if isinstance(row, list | str) else None


def sides(row: Any) -> list[str]:
    """A result's texts as they are read: prompt with each answer."""
    if isinstance(row, str):
        return [row]
    prompt = "\n".join(message["content"] for message in as_messages(prompt_in(row)))
    if isinstance(row, Ranking):
        return [f"{prompt}\n{text}" for text in row.completions]
    return [f"{prompt}\n{row.completion}"] if isinstance(row, Demonstration) else [prompt]


def shown(row: Any) -> list[str]:
    """The lines in which a result is shown."""
    if isinstance(row, str):
        return [f"text: {row}"]
    lines = [f"{one['role']}: {one['content']}" for one in as_messages(prompt_in(row))]
    if isinstance(row, Demonstration):
        lines.append(f"→ assistant: {row.completion}")
    if isinstance(row, Ranking):
        scores: tuple[float | None, ...] = row.scores or (None,) * len(row.ranks)
        for rank, text, score in sorted(
            zip(row.ranks, row.completions, scores, strict=True), key=lambda one: one[0]
        ):
            lines.append(f"→ rank {rank}{'' if score is None else f' (score {score:g})'}: {text}")
        if row.margin is not None:
            lines.append(f"margin {row.margin:g}")
    return lines

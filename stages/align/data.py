"""What `rlhf align` trains and measures on: files of people's data, divided by conversation into disjoint parts.

`test` and `validation` are never trained on, `gold` is for the gold reward model alone, all else learns from the rest.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data import (
    Demonstration,
    Prompt,
    Ranking,
    as_messages,
    fingerprint,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_texts,
)
from rlhf.errors import InputError
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.splits import conversation, in_random_order, mixed, part_of
from rlhf.store import write_text
from stages.settings import AlignDataSettings

T = TypeVar("T", Demonstration, Ranking)
By = dict[str, list[Any]]


@dataclass(frozen=True)
class Sources:
    """All rows of the files a recipe names, by the file's name."""

    demonstrations: dict[str, list[Demonstration]]
    rankings: dict[str, list[Ranking]]
    test_rankings: dict[str, list[Ranking]]
    prompts: dict[str, list[Prompt]]
    texts: list[str]
    tasks: list[Prompt]


@dataclass(frozen=True)
class AlignData:
    """Files of one division, in formats every stage reads; `measured` are rankings to measure on, by part and source."""

    folder: Path
    measured: dict[str, dict[str, Path]]

    @property
    def has_tasks(self) -> bool:
        return Path(self.file("tasks")).exists()

    def file(self, part: str) -> str:
        """Where a part is, such as `rankings_gold`."""
        return str(self.folder / f"{part}.jsonl")


def read_sources(settings: AlignDataSettings, folder: Path) -> Sources:
    """Every file that the settings name, relative to `folder`."""

    def each(names: str, read: Callable[..., Iterable[Any]]) -> By:
        paths = [folder / name.strip() for name in names.split(",") if name.strip()]
        return {path.name.split(".")[0]: list(read(path, settings.skip_bad_rows)) for path in paths}

    demonstrations, rankings = (
        each(settings.demonstrations, read_demonstrations),
        each(settings.rankings, read_rankings),
    )
    tests = each(settings.test_rankings, read_rankings)
    answered = {**demonstrations, **rankings, **tests}
    prompts = {name: [row.prompt for row in rows] for name, rows in answered.items()}
    texts = [text for rows in each(settings.texts, read_texts).values() for text in rows]
    tasks = [prompt for rows in each(settings.tasks, read_prompts).values() for prompt in rows]
    return Sources(
        demonstrations, rankings, tests, prompts | each(settings.prompts, read_prompts), texts, tasks
    )


class Division:
    """Which part each conversation belongs to; what a file of test rankings holds is test wherever else it stands."""

    def __init__(self, settings: AlignDataSettings, sources: Sources) -> None:
        self.shares = {
            "test": settings.test_share,
            "validation": settings.validation_share,
            "gold": settings.gold_share,
        }
        self.tests = {conversation(row.prompt) for rows in sources.test_rankings.values() for row in rows}

    def part(self, prompt: Prompt) -> str:
        return "test" if conversation(prompt) in self.tests else part_of(prompt, self.shares)

    def rows(self, rows: Iterable[T], part: str) -> list[T]:
        """The rows of one part, in an order of their own."""
        return in_random_order([row for row in rows if self.part(row.prompt) == part], lambda row: row.prompt)

    def prompts(self, by_source: dict[str, list[Prompt]], part: str, count: int) -> list[Prompt]:
        """Up to `count` prompts of one part, no conversation twice, an equal number of each source."""
        chosen, seen = [], set[str]()
        for rows in by_source.values():
            mine = []
            for prompt in in_random_order(rows, lambda prompt: prompt):
                if self.part(prompt) == part and conversation(prompt) not in seen:
                    seen.add(conversation(prompt))
                    mine.append(prompt)
            chosen.append(mine)
        return mixed(chosen, count)


def divide(
    settings: AlignDataSettings, folder: Path, tokenizer: AnyTokenizer, root: Path, say: Callable[[str], None]
) -> AlignData:
    """Divide the files under `folder` into files under `root`, the same each time.

    tokenizer: measures prompts; one of more than max_prompt_tokens is none to sample from, and is learned from only.
    Raises InputError for a part without any row.
    """
    sources = read_sources(settings, folder)
    division = Division(settings, sources)
    short = {
        name: [p for p in rows if len(tokenizer.encode_prompt(as_messages(p))) <= settings.max_prompt_tokens]
        for name, rows in sources.prompts.items()
    }
    demonstrations = {part: [division.rows(rows, part) for rows in sources.demonstrations.values()]
                      for part in ("rest", "validation")}  # fmt: skip
    trained = mixed(demonstrations["rest"], settings.num_demonstrations)
    texts = {
        part: [t for t in sources.texts if part_of(t, {"test": settings.test_share}) == part]
        for part in ("test", "rest")
    }
    parts: dict[str, Sequence[Any]] = {
        "demonstrations": [asdict(row) for row in trained],
        "demonstrations_validation": [
            asdict(row) for row in mixed(demonstrations["validation"], settings.num_demonstrations // 10)
        ],
        "rankings": _rankings(division, sources.rankings, "rest", settings.num_rankings),
        "rankings_gold": _rankings(division, sources.rankings, "gold", settings.num_rankings),
        "prompts": [{"prompt": p} for p in division.prompts(short, "rest", settings.num_prompts)],
        "prompts_test": [{"prompt": p} for p in division.prompts(short, "test", settings.num_test_prompts)],
        "texts": [{"text": t} for t in mixed([texts["rest"], [_as_text(row) for row in trained]], 10**9)],
        "texts_test": [{"text": t} for t in texts["test"]],
    }
    if sources.tasks:
        parts["tasks"] = [{"prompt": task} for task in sources.tasks]
    measured = {part: {name: division.rows(rows, part)[: settings.num_measured] for name, rows in sources.rankings.items()}
                for part in ("validation", "test")}  # fmt: skip
    measured["test"] |= sources.test_rankings
    target = root / fingerprint([asdict(settings), parts, measured])[:12]
    for name, rows in parts.items():
        _write(target / f"{name}.jsonl", rows)
    say("data: " + ", ".join(f"{len(rows)} {name}" for name, rows in parts.items()))
    return AlignData(target, {part: {name: _write(target / f"{part}-{name}.jsonl", [asdict(row) for row in rows])
                                     for name, rows in by_source.items() if rows}
                              for part, by_source in measured.items()})  # fmt: skip


def _rankings(
    division: Division, sources: dict[str, list[Ranking]], part: str, most: int
) -> list[dict[str, Any]]:
    rows = [division.rows(rows, part) for rows in sources.values()]
    return [asdict(row) for row in mixed(rows, most or sum(map(len, rows)))]


def _as_text(row: Demonstration) -> str:
    return "\n\n".join([*(message["content"] for message in as_messages(row.prompt)), row.completion])


def _write(path: Path, rows: Sequence[Any]) -> Path:
    if not rows:
        raise InputError(
            f"recipe, [data]: nothing is left for {path.stem}; name more files or change the shares"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path

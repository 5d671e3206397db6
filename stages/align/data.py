"""What `rlhf align` trains and measures on: files of people's data, divided by conversation into disjoint parts.

`test` and `validation` are never trained on, `gold` is for the gold reward model alone, all else learns from the rest.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data import (
    Demonstration,
    Prompt,
    Ranking,
    Rows,
    as_messages,
    fingerprint,
    read_demonstrations,
    read_options,
    read_prompts,
    read_rankings,
    read_texts,
)
from rlhf.durable import write_text
from rlhf.errors import InputError
from rlhf.hub_names import SCHEME
from rlhf.measuring.constraints import add_constraints, constrained_row
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.splits import assigned_split, conversation_key, in_random_order, interleaved, split_point
from stages.judging.answers import answers_to
from stages.reading import prefixed
from stages.settings import AlignDataSettings

T = TypeVar("T", Demonstration, Ranking)
By = dict[str, list[Any]]
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")  # of the files that a source's rankings are written to


@dataclass(frozen=True)
class Sources:
    """All rows of the sources a recipe names, by the source's name; prompts by its place, those of all uses of it.

    read: what was read of each and what was left out.
    """

    demonstrations: dict[str, list[Demonstration]]
    rankings: dict[str, list[Ranking]]
    test_rankings: dict[str, list[Ranking]]
    prompts: dict[str, list[Prompt]]
    texts: list[str]
    tasks: list[Prompt]
    read: list[dict[str, Any]]


@dataclass(frozen=True)
class AlignData:
    """Files of one division, in formats every stage reads.

    measured: rankings to measure on, by part and source. read: what was read of the sources that were divided, for the
    manifests of what is trained on them.
    """

    folder: Path
    measured: dict[str, dict[str, Path]]
    read: list[dict[str, Any]]

    def has(self, part: str) -> bool:
        """Whether there is a part that may be missing."""
        return Path(self.file(part)).exists()

    def file(self, part: str) -> str:
        """Where a part is, such as `rankings_gold`."""
        return str(self.folder / f"{part}.jsonl")


def located(name: str, folder: Path | None) -> tuple[str, str]:
    """What to call a source, and where it is: a file or folder under `folder`, else anywhere, else on the hub."""
    if folder is not None and os.path.exists(folder / name):
        return Path(name).name.split(".")[0], str(folder / name)
    label = (
        Path(name).name.split(".")[0]
        if os.path.exists(name)
        else NOT_IN_NAMES.sub("-", name.removeprefix(SCHEME).partition("/")[2])
    )
    return label or name, name


def read_sources(settings: AlignDataSettings, folder: Path | None, say: Callable[[str], None]) -> Sources:
    """Every source that the settings name. Raises InputError for two of one use, or measured on, that would be called the same."""
    options, accounts = read_options(settings, prefixed("data", say)), dict[str, dict[str, Any]]()
    prompts: dict[str, list[Prompt]] = {}

    def each(names: str, read: Callable[..., Rows[Any]], asks: bool = True) -> By:
        found: By = {}
        for name in filter(None, map(str.strip, names.split(","))):
            label, place = located(name, folder)
            if label in found:
                raise InputError(f"recipe, [data]: two sources would be called {label}; rename a file")
            rows = read(place, options=options)
            found[label] = list(rows)
            if asks:
                asked: list[Any] = [getattr(row, "prompt", row) for row in found[label]]
                prompts[place] = asked + prompts.get(place, [])
            accounts[f"{place} {rows.account.use}"] = rows.account.manifest()
        return found

    demonstrations, rankings = (
        each(settings.demonstrations, read_demonstrations),
        each(settings.rankings, read_rankings),
    )
    tests = each(settings.test_rankings, read_rankings)
    if twice := sorted(rankings.keys() & tests.keys()):
        raise InputError(
            f"recipe, [data]: rankings and test_rankings would both be called {twice[0]}; rename a file"
        )
    texts = [text for rows in each(settings.texts, read_texts, asks=False).values() for text in rows]
    tasks = [prompt for rows in each(settings.tasks, read_prompts, asks=False).values() for prompt in rows]
    each(settings.prompts, read_prompts)
    return Sources(demonstrations, rankings, tests, prompts, texts, tasks, list(accounts.values()))


class Division:
    """Which part each conversation belongs to; what test rankings and tasks hold is test wherever else it stands."""

    def __init__(self, settings: AlignDataSettings, sources: Sources) -> None:
        self.shares = {
            "test": settings.test_share,
            "validation": settings.validation_share,
            "gold": settings.gold_share,
        }
        self.tests = {conversation_key(row.prompt) for rows in sources.test_rankings.values() for row in rows}
        self.tests |= {conversation_key(task) for task in sources.tasks}

    def part(self, prompt: Prompt) -> str:
        return "test" if conversation_key(prompt) in self.tests else assigned_split(prompt, self.shares)

    def rows(self, rows: Iterable[T], part: str) -> list[T]:
        """The rows of one part, in an order of their own."""
        return in_random_order([row for row in rows if self.part(row.prompt) == part], lambda row: row.prompt)

    def prompts(self, by_source: dict[str, list[Prompt]], part: str, count: int) -> list[Prompt]:
        """Up to `count` prompts of one part, no conversation twice, an equal number of each source."""
        chosen, seen = [], set[str]()
        for rows in by_source.values():
            mine = []
            for prompt in in_random_order(rows, lambda prompt: prompt):
                if self.part(prompt) == part and conversation_key(prompt) not in seen:
                    seen.add(conversation_key(prompt))
                    mine.append(prompt)
            chosen.append(mine)
        return interleaved(chosen, count)


def divide(
    settings: AlignDataSettings,
    folder: Path | None,
    tokenizer: AnyTokenizer,
    root: Path,
    say: Callable[[str], None],
) -> AlignData:
    """Divide the sources into files under `root`, the same each time.

    folder: where files that the settings name are looked for first.

    tokenizer: measures prompts; one of more than max_prompt_tokens is none to sample from, and is learned from only.
    Raises InputError for a part without any row.
    """
    sources = read_sources(settings, folder, say)
    division = Division(settings, sources)
    short = {
        name: [p for p in rows if len(tokenizer.encode_prompt(as_messages(p))) <= settings.max_prompt_tokens]
        for name, rows in sources.prompts.items()
    }
    demonstrations = {part: [division.rows(rows, part) for rows in sources.demonstrations.values()]
                      for part in ("rest", "validation")}  # fmt: skip
    trained = interleaved(demonstrations["rest"], settings.num_demonstrations)
    tested = division.prompts(short, "test", settings.num_test_prompts)
    texts = {
        part: [t for t in sources.texts if assigned_split(t, {"test": settings.test_share}) == part]
        for part in ("test", "rest")
    }
    parts: dict[str, Sequence[Any]] = {
        "demonstrations": [demonstration_row(row) for row in trained],
        "demonstrations_validation": [
            demonstration_row(row)
            for row in interleaved(demonstrations["validation"], max(1, settings.num_demonstrations // 10))
        ],
        "rankings": _rankings(division, sources.rankings, "rest", settings.num_rankings),
        "rankings_gold": _rankings(division, sources.rankings, "gold", settings.num_rankings),
        "prompts": prompt_rows(
            division.prompts(short, "rest", settings.num_prompts), settings.constrained_share
        ),
        "prompts_test": [{"prompt": p} for p in tested],
        "texts": [
            {"text": t} for t in interleaved([texts["rest"], [_as_text(row) for row in trained]], 10**9)
        ],
        "texts_test": [{"text": t} for t in texts["test"]],
    }
    if answers := _demonstrated(tested, sources):
        parts["demonstrations_test"] = answers
    if sources.tasks:
        parts["tasks"] = [{"prompt": task} for task in sources.tasks]
    measured = {part: {name: division.rows(rows, part)[: settings.num_measured] for name, rows in sources.rankings.items()}
                for part in ("validation", "test")}  # fmt: skip
    measured["test"] |= sources.test_rankings
    target = root / fingerprint([asdict(settings), parts, measured])[:12]
    for name, rows in parts.items():
        _write(target / f"{name}.jsonl", rows)
    say("data: " + ", ".join(f"{len(rows)} {name}" for name, rows in parts.items()))
    return AlignData(target, {part: {name: _write(target / f"{part}-{name}.jsonl", [ranking_row(row) for row in rows])
                                     for name, rows in by_source.items() if rows}
                              for part, by_source in measured.items()}, sources.read)  # fmt: skip


def prompt_rows(prompts: Sequence[Prompt], constrained_share: float) -> list[dict[str, Any]]:
    """Rows of a prompts file; about a share of them say a constraint, the same ones each time."""
    chosen = [place for place, p in enumerate(prompts) if split_point(p, "constrained") < constrained_share]
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
    constrained = add_constraints([prompts[place] for place in chosen], len(chosen), seed=0)
    for place, (prompt, constraint) in zip(chosen, constrained, strict=True):
        rows[place] = constrained_row(prompt, constraint)
    return rows


def demonstration_row(row: Demonstration) -> dict[str, Any]:
    """The demonstration as a row of a file; where turns are not to be learned, as messages that say so by weight 0."""
    if not row.unlearned:
        return {"prompt": row.prompt, "completion": row.completion}
    messages: list[dict[str, Any]] = [*map(dict, as_messages(row.prompt))]
    for place in row.unlearned:
        messages[place]["weight"] = 0
    return {"messages": [*messages, {"role": "assistant", "content": row.completion}]}


def _demonstrated(prompts: Sequence[Prompt], sources: Sources) -> list[dict[str, Any]]:
    """People's own answers to these prompts, as far as the sources have any."""
    rows = (row for rows in sources.demonstrations.values() for row in rows)
    answers = zip(prompts, answers_to(prompts, rows), strict=True)
    return [{"prompt": prompt, "completion": answer} for prompt, answer in answers if answer]


def _rankings(
    division: Division, sources: dict[str, list[Ranking]], part: str, most: int
) -> list[dict[str, Any]]:
    rows = [division.rows(rows, part) for rows in sources.values()]
    return [ranking_row(row) for row in interleaved(rows, most or sum(map(len, rows)))]


def ranking_row(row: Ranking) -> dict[str, Any]:
    """The ranking as a row of a file; what our exports say beside an order is not learned."""
    return {name: value for name, value in asdict(row).items() if name != "beside"}


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

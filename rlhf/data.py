"""Data formats and their readers. Imports no torch."""

import contextlib
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf.errors import InputError

Message = dict[str, str]
Prompt = str | list[Message]
ROLES = ("system", "user", "assistant")
LIST_COLUMNS = ("completions", "ranks", "flags", "ratings")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt and the answer a person wrote for it."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One labeler's ranking of K completions: rank 0 is best, equal ranks tie."""

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    labeler: str = ""
    flags: tuple[tuple[str, ...], ...] = ()
    ratings: tuple[int | None, ...] = ()

    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) indices of all pairs that are not ties."""
        places = range(len(self.ranks))
        return [(i, j) for i in places for j in places if self.ranks[i] < self.ranks[j]]


def as_messages(prompt: Prompt) -> list[Message]:
    """The prompt as a conversation; a string is one message of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def fingerprint(rows: Any) -> str:
    """sha256 of the rows as canonical JSON."""
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_texts(source: str | Path, skip_bad_rows: bool = False) -> list[str]:
    """Documents: a text file's paragraphs (split at blank lines), or the `text` column of rows."""
    path = Path(source)
    if path.name.removesuffix(".gz").endswith(".txt"):
        return [part for part in _text_of(path).split("\n\n") if part.strip()] or _nothing(source)
    return read_rows(source, _text_row, skip_bad_rows)


def read_prompts(source: str | Path, skip_bad_rows: bool = False) -> list[Prompt]:
    """Prompts of rows in any of the formats that `docs/data.md` lists, or the lines of a text file."""
    path = Path(source)
    if path.name.removesuffix(".gz").endswith(".txt"):
        return [line for line in _text_of(path).splitlines() if line.strip()] or _nothing(source)
    return read_rows(source, prompt_of, skip_bad_rows)


def prompts_in(rows: Iterable[Any]) -> list[Prompt]:
    """The prompts of a data set in memory: of its rows, plain or conversational, or a list of prompts as it is.

    Raises InputError for a row without a prompt, such as one of token ids.
    """
    prompts = []
    for number, row in enumerate(rows, start=1):
        try:
            prompts.append(prompt_of(row if isinstance(row, dict) else {"prompt": row}))
        except (BadRow, AttributeError, TypeError, KeyError, IndexError) as problem:
            raise InputError(f"row {number}: {problem}; a row needs a `prompt` of text or messages") from None
    return prompts


def read_demonstrations(source: str | Path, skip_bad_rows: bool = False) -> list[Demonstration]:
    """Demonstrations: `prompt` with `completion`, `messages`, `instruction` with `output`, `question` with `answer`."""
    return read_rows(source, _demonstration, skip_bad_rows)


def read_rankings(source: str | Path, skip_bad_rows: bool = False) -> list[Ranking]:
    """Rankings: `completions` with `ranks`, `chosen` with `rejected` (also HH), OASST's `messages` with `replies`."""
    return read_rows(source, ranking_of, skip_bad_rows)


class BadRow(Exception):
    """What is wrong with one row; the reader adds where it stands."""


def _need(row: dict[str, Any], *names: str) -> list[Any]:
    for name in names:
        if row.get(name) is None:
            raise BadRow(f'"{name}" is missing (columns found: {", ".join(row)}); see docs/data.md')
    return [row[name] for name in names]


def _text_row(row: dict[str, Any]) -> str:
    if "text" not in row and ("instruction" in row or "prompt" in row or "messages" in row):
        demonstration = _demonstration(row)
        return "\n".join(
            [*(message["content"] for message in as_messages(demonstration.prompt)), demonstration.completion]
        )
    return str(_need(row, "text")[0])


def _checked(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise BadRow('"messages" must be a list of at least one {role, content}')
    result = []
    for message in messages:
        role = {"prompter": "user", "human": "user", "gpt": "assistant"}.get(
            message.get("role"), message.get("role")
        )
        content = message.get("content", message.get("text"))
        if role not in ROLES or not isinstance(content, str):
            raise BadRow(f"a message needs a role of {', '.join(ROLES)} and a text content")
        result.append({"role": role, "content": content})
    return result


def hh_conversation(text: str) -> tuple[list[Message], str]:
    """An Anthropic HH text, `\\n\\nHuman: … \\n\\nAssistant: …`, as conversation and last answer."""
    messages: list[Message] = []
    for part in (
        text.replace("\n\nHuman:", "\0user\1").replace("\n\nAssistant:", "\0assistant\1").split("\0")[1:]
    ):
        role, _, content = part.partition("\1")
        messages.append({"role": role, "content": content.strip()})
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise BadRow("an HH text must end with an Assistant turn after a Human one")
    return messages[:-1], messages[-1]["content"]


def prompt_of(row: dict[str, Any]) -> Prompt:
    """The prompt of a row in any known format."""
    if isinstance(row.get("prompt"), list):
        return _checked(row["prompt"])
    if row.get("prompt") is not None:
        return str(row["prompt"])
    if "instruction" in row:
        extra = row.get("input") or row.get("context") or _first_instance(row).get("input")
        return f"{row['instruction']}\n\n{extra}" if extra else str(row["instruction"])
    if "question" in row:
        return str(row["question"])
    if "output_1" in row:
        return str(row["input"])
    if isinstance(row.get("chosen"), str) and row["chosen"].startswith("\n\nHuman:"):
        return hh_conversation(row["chosen"])[0]
    if "messages" in row:
        messages = _checked(row["messages"])
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if "turns" in row:
        first = row["turns"][0]
        return str(first["content"] if isinstance(first, dict) else first)
    _need(row, "prompt")
    raise AssertionError("unreachable")


def _first_instance(row: dict[str, Any]) -> dict[str, Any]:
    """The first of a self-instruct task's instances of input and output."""
    return (row.get("instances") or [{}])[0]


def _demonstration(row: dict[str, Any]) -> Demonstration:
    if "messages" in row:
        messages = _checked(row["messages"])
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow("a conversation must end with the assistant's answer")
        return Demonstration(prompt=messages[:-1], completion=messages[-1]["content"])
    row = row | _first_instance(row)
    column = next(
        (name for name in ("completion", "output", "response", "answer") if name in row), "completion"
    )
    completion = _need(row, column)[0]
    if isinstance(completion, list):
        completion = _checked(completion)[-1]["content"]
    if not str(completion).strip():
        raise BadRow(f'"{column}" is empty')
    return Demonstration(prompt=prompt_of(row), completion=str(completion))


def ranking_of(row: dict[str, Any]) -> Ranking:
    """The ranking in a row of any known format. Raises BadRow."""
    if "completions" in row:
        completions, ranks = _need(row, "completions", "ranks")
        return _valid(Ranking(prompt=prompt_of(row), completions=tuple(completions), ranks=tuple(ranks),
                              labeler=str(row.get("labeler") or ""),
                              flags=tuple(tuple(flags or ()) for flags in row.get("flags") or ()),
                              ratings=tuple(row.get("ratings") or ())))  # fmt: skip
    if "replies" in row:
        replies = row["replies"]
        return _valid(Ranking(prompt=prompt_of(row), completions=tuple(r["text"] for r in replies),
                              ranks=tuple(r["rank"] for r in replies)))  # fmt: skip
    if "output_1" in row:  # LLMBar: label says which of the two is better
        prompt, first, second, label = _need(row, "input", "output_1", "output_2", "label")
        ranks = {1: (0, 1), 2: (1, 0)}.get(label)
        if ranks is None:
            raise BadRow(f'"label" must be 1 or 2, not {label!r}')
        return _valid(Ranking(prompt=str(prompt), completions=(first, second), ranks=ranks))
    chosen, rejected = _need(row, "chosen", "rejected")
    if isinstance(chosen, str) and chosen.startswith("\n\nHuman:"):
        conversation, better = hh_conversation(chosen)
        return _valid(
            Ranking(prompt=conversation, completions=(better, hh_conversation(rejected)[1]), ranks=(0, 1))
        )
    if isinstance(chosen, list):
        messages, other = _checked(chosen), _checked(rejected)
        prompt = prompt_of(row) if "prompt" in row else messages[:-1]
        return _valid(
            Ranking(prompt=prompt, completions=(messages[-1]["content"], other[-1]["content"]), ranks=(0, 1))
        )
    return _valid(Ranking(prompt=prompt_of(row), completions=(str(chosen), str(rejected)), ranks=(0, 1)))


def _valid(ranking: Ranking) -> Ranking:
    if len(ranking.completions) != len(ranking.ranks) or len(ranking.ranks) < 2:
        raise BadRow("a ranking needs at least 2 completions and one rank for each")
    if not all(isinstance(text, str) for text in ranking.completions):
        raise BadRow("a completion is not a text")
    if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranking.ranks):
        raise BadRow("ranks are whole numbers; 0 is best")
    for name, given in (("flags", ranking.flags), ("ratings", ranking.ratings)):
        if given and len(given) != len(ranking.ranks):
            raise BadRow(f"{len(given)} {name} for {len(ranking.ranks)} completions")
    return ranking


def read_rows(source: str | Path, parse: Callable[[dict[str, Any]], T], skip_bad_rows: bool) -> list[T]:
    """Every row as `parse` makes it. Raises InputError with file and line for one it refuses, unless those are skipped."""
    found = []
    for where, row in rows_in(source):
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("a row must be a JSON object")
            found.append(parse(row))
        except (BadRow, AttributeError, TypeError, KeyError, IndexError) as problem:
            if not skip_bad_rows:
                reason = (
                    str(problem)
                    if isinstance(problem, BadRow)
                    else "the row has an unknown shape; see docs/data.md"
                )
                raise InputError(f"{where}: {reason}") from None
    return found or _nothing(source)


def _nothing(source: str | Path) -> Any:
    raise InputError(f"{source}: no usable rows; the data set is empty")


def rows_in(source: str | Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a file, a datasets folder or a hub data set; a line that is no JSON comes as a BadRow."""
    path = Path(source)
    name = path.name.removesuffix(".gz")
    if not path.exists():
        if path.suffix or str(source).count("/") != 1:
            raise InputError(
                f"{source}: no such file; name a file, a datasets folder or a hub data set (owner/name)"
            )
        yield from _hub_rows(str(source))
    elif path.is_dir() or name.endswith(".parquet"):
        yield from _table_rows(path)
    elif name.endswith(".jsonl"):
        # Not splitlines(): JSON may hold U+2028 and others of its line ends inside a text.
        for number, line in enumerate(_text_of(path).split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", _json_row(line)
    elif name.endswith(".json"):
        try:
            rows = json.loads(_text_of(path))
        except json.JSONDecodeError as problem:
            raise InputError(f"{path}:{problem.lineno}: not JSON ({problem.msg})") from None
        yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, start=1))
    elif name.endswith(".csv"):
        table = csv.DictReader(io.StringIO(_text_of(path), newline=""))
        for row in table:
            yield (
                f"{path}:{table.line_num}",
                {name: _cell(name, value) for name, value in row.items() if name},
            )
    else:
        raise InputError(
            f"{path}: unknown kind of file; use .txt .jsonl .json .csv .parquet or a datasets folder"
        )


def _json_row(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as problem:
        return BadRow(f"not JSON ({problem.msg})")


def _table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_from_disk(path) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
    except Exception as problem:
        raise InputError(f"{path}: cannot be read ({str(problem).splitlines()[0]})") from None
    yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, start=1))


def _cell(column: str, text: str | None) -> Any:
    """A table cell as our exports write it: lists as JSON, an apostrophe before what a spreadsheet would run."""
    if text is None:
        return None
    if text[:1] == "'" and text[1:2] in tuple("=+-@\t\r\n'"):
        return text[1:]
    if text[:1] == "[":
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(text)
            if column in LIST_COLUMNS or (found and all(isinstance(one, dict) for one in found)):
                return found
    return text


def _hub_rows(source: str) -> Iterator[tuple[str, Any]]:
    import datasets

    name, _, split = source.partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except Exception as problem:
        raise InputError(f"{source}: cannot be loaded ({str(problem).splitlines()[0]})") from None
    yield from ((f"{source}:{number}", row) for number, row in enumerate(rows, start=1))


def _text_of(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: cannot be read ({problem})") from None

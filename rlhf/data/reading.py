"""Reading a source for one use: every row through the table of formats, with an account of what became of it."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.data.account import Account
from rlhf.data.files import rows_of
from rlhf.data.formats.table import (
    DEMONSTRATIONS,
    PROMPTS,
    RANKINGS,
    TEXTS,
    TO_RATE,
    Format,
    Together,
)
from rlhf.data.parser import Parser, ReadOptions
from rlhf.data.places import Place, places, table_rows
from rlhf.data.rows import BadRow, Demonstration, LeftOut, NotHeld, Prompt, PromptRow, Ranking, Row
from rlhf.data.sampling import chosen_lines, random_order
from rlhf.data.spool import Rows
from rlhf.errors import InputError, NoSuchData

FIRST_WORD_S, WORD_EVERY_S = 1.0, 5.0
BAD = "that cannot be read"


def read_rankings(
    source: str | Path, skip_bad_rows: bool = False, options: ReadOptions | None = None
) -> Rows[Ranking]:
    """Rankings of a source in any format of the table (`docs/data.md`) that holds some.

    Raises InputError naming place and reason for a row that cannot be read, unless those are skipped, and where nothing
    is left.
    """
    return _read(source, RANKINGS, _options(options, skip_bad_rows))


def read_answers(
    source: str | Path, skip_bad_rows: bool = False, options: ReadOptions | None = None
) -> Rows[Ranking]:
    """What people are to rate: rankings of one answer, with the rating it has, or of what `read_rankings` reads.

    Raises as `read_rankings`.
    """
    return _read(source, TO_RATE, _options(options, skip_bad_rows))


def read_demonstrations(
    source: str | Path, skip_bad_rows: bool = False, options: ReadOptions | None = None
) -> Rows[Demonstration]:
    """Demonstrations of a source in any format of the table that holds some. Raises as `read_rankings`."""
    return _read(source, DEMONSTRATIONS, _options(options, skip_bad_rows))


def read_prompts(
    source: str | Path,
    skip_bad_rows: bool = False,
    options: ReadOptions | None = None,
    num_prompts: int | None = None,
    seed: int = 0,
) -> Rows[Prompt]:
    """Prompts of a source in any format of the table, or the lines of a text file. Raises as `read_rankings`.

    num_prompts: that many at random, by the seed; of a large file of lines only those are read.
    """
    return _read(source, PROMPTS, _options(options, skip_bad_rows), num_prompts, seed)


def read_prompt_rows(
    source: str | Path,
    skip_bad_rows: bool = False,
    options: ReadOptions | None = None,
    num_prompts: int | None = None,
    seed: int = 0,
) -> Rows[PromptRow]:
    """`read_prompts` with all columns of each prompt's row by name."""
    return _read(source, PROMPTS, _options(options, skip_bad_rows), num_prompts, seed, keep_columns=True)


def read_texts(
    source: str | Path, skip_bad_rows: bool = False, options: ReadOptions | None = None
) -> Rows[str]:
    """Documents: a text file's paragraphs (split at blank lines), the `text` column of rows, or demonstrations."""
    return _read(source, TEXTS, _options(options, skip_bad_rows))


def rows_in(given: Any, name: str) -> Iterable[Any]:
    """A data set in memory, itself. Raises InputError, saying what to pass, for a text, a dict of splits or no rows."""
    if isinstance(given, Mapping):
        splits = ", ".join(map(str, given))
        first = next(iter(given), "train")
        raise InputError(
            f"{name} is a dict of {splits or 'nothing'}; pass one of its splits, as in {name}=data[{first!r}]"
        )
    if isinstance(given, str | bytes | Path):
        raise InputError(
            f"{name} is a text or path; pass rows or a list, such as what datasets.load_dataset(…, split='train') or "
            "rlhf.data.read_prompts(file) gives"
        )
    if not isinstance(given, Iterable):
        raise InputError(f"{name} is a {type(given).__name__}; pass rows or a list")
    return given


def prompt_rows_in(rows: Iterable[Any], name: str = "train_dataset") -> list[PromptRow]:
    """The prompts of a data set in memory with their columns: of its rows, plain or conversational, or a list of prompts.

    Raises InputError for a row without a prompt, such as one of token ids, and where there are no rows.
    """
    reader = Parser(Account("the data set", PROMPTS), ReadOptions())
    found: list[PromptRow] = []

    def refuse(kind: Format, placed: tuple[str, Row]) -> None:
        raise BadRow(
            f"{kind.name} say something only together; write them to a file and pass rlhf.data.read_prompts(file)"
        )

    for number, row in enumerate(rows_in(rows, name), start=1):
        if isinstance(row, PromptRow):
            found.append(row)
            continue
        raw = row if isinstance(row, dict) else {"prompt": row}
        try:
            given = list(reader.results(f"row {number}", raw, refuse))
        except LeftOut as problem:
            raise InputError(
                f"row {number}: it is {problem}; a row needs a `prompt` of text or messages"
            ) from None
        except (BadRow, RecursionError) as problem:
            raise InputError(f"row {number}: {problem}; a row needs a `prompt` of text or messages") from None
        found += [PromptRow(prompt=prompt, columns=raw) for _, prompt in given]
    if not found:
        raise InputError(f"{name} has no rows; pass at least one prompt")
    return found


def _options(options: ReadOptions | None, skip_bad_rows: bool) -> ReadOptions:
    given = options or ReadOptions()
    return replace(given, skip_bad_rows=given.skip_bad_rows or skip_bad_rows)


def _coders(use: str, keep_columns: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """How a result is kept as JSON, and made of it again."""
    if use in (RANKINGS, TO_RATE):
        return lambda one: {
            name: value for name, value in vars(one).items() if value not in ("", (), None)
        }, _ranking
    if use == DEMONSTRATIONS:
        return lambda one: [
            one.prompt,
            one.completion,
            *([one.unlearned] if one.unlearned else []),
        ], _demonstration
    if keep_columns:
        return lambda one: [one.prompt, one.columns], lambda kept: PromptRow(prompt=kept[0], columns=kept[1])
    return lambda one: one, lambda kept: kept


def _ranking(kept: dict[str, Any]) -> Ranking:
    lists = {
        name: tuple(kept.pop(name)) for name in ("completions", "ranks", "ratings", "scores") if name in kept
    }
    flags = tuple(tuple(given) for given in kept.pop("flags", ()))
    made: Any = {**lists, **kept}
    return Ranking(flags=flags, **made)


def _demonstration(kept: list[Any]) -> Demonstration:
    return Demonstration(
        prompt=kept[0], completion=kept[1], unlearned=tuple(kept[2]) if len(kept) > 2 else ()
    )


class _Progress:
    """A line about how far reading is, from the second second on."""

    def __init__(self, say: Callable[[str], None] | None, shown: str) -> None:
        self.say, self.shown = say, shown
        self.next = time.monotonic() + FIRST_WORD_S
        self.file: Any = None
        self.size = 0

    def watch(self, file: Any) -> None:
        import os

        self.file, self.size = file, os.fstat(file.fileno()).st_size

    def after(self, num_rows: int) -> None:
        if self.say is None or num_rows % 256 or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + WORD_EVERY_S
        share = (
            f", {100 * self.file.tell() // self.size} % of {self.file.name}"
            if self.file and self.size
            else ""
        )
        self.say(f"reading {self.shown}: {num_rows:,} rows{share}")


def _read(
    source: str | Path,
    use: str,
    options: ReadOptions,
    num_rows: int | None = None,
    seed: int = 0,
    keep_columns: bool = False,
) -> Rows[Any]:
    account = Account(f"{source}", use)
    rows: Rows[Any] = Rows(account, *_coders(use, keep_columns))
    _Pass(rows, options, keep_columns).run(places(source), num_rows, seed)
    rows.finish()
    if not rows:
        raise NoSuchData(f"{source}: no usable rows; {_emptiness(account)}")
    if options.say is not None:
        options.say(account.line())
    return rows


def _emptiness(account: Account) -> str:
    if not account.num_rows:
        return "the data set is empty"
    if not account.left_out:
        return f"of {account.num_rows} that were read none remained"
    reasons = ", ".join(
        f"{count} {reason} (first: {account.first[reason]})" for reason, count in account.left_out.items()
    )
    return f"all are left out: {reasons}"


class _Pass:
    """One pass over the places of a source."""

    def __init__(self, rows: Rows[Any], options: ReadOptions, keep_columns: bool) -> None:
        self.rows, self.account, self.options, self.keep_columns = rows, rows.account, options, keep_columns
        self.reader = Parser(rows.account, options)
        self.together: dict[Together, list[tuple[str, Row]]] = {}
        self.gathered_from: dict[str, int] = {}  # places of such rows, by the number of their source

    def run(self, sources: list[Place], num_rows: int | None, seed: int) -> None:
        """Read all, or num_rows at random."""
        if num_rows is not None and (lines := chosen_lines(sources, num_rows, seed)) is not None:
            self._take(lines, num_rows)
            return
        alone: list[range] = []  # of each source, which results its rows gave, each by itself
        for place in sources:
            self.account.revisions |= place.revisions
            self.account.not_read += place.not_read
            start = self.rows.num_kept
            self._place(place, len(alone))
            alone.append(range(start, self.rows.num_kept))
        together = self._finish_together()
        if num_rows is None and all(place.weight == 1 for place in sources):
            return  # they stand in order
        order: list[int] = []
        for number, place in enumerate(sources):
            order += _weighted([*alone[number], *together.get(number, ())], place.weight, seed)
        self.rows.arrange(order if num_rows is None else _at_random(order, num_rows, seed))

    def _take(self, lines: Iterator[tuple[int, str, Any]], num_rows: int) -> None:
        """The first num_rows results of these lines, in the order of the file."""
        lines_of: list[int] = []

        def refuse(found: Format, placed: tuple[str, Row]) -> None:
            raise BadRow(f"{found.name} say something only together; put them into a file of their own")

        for line, where, raw in lines:
            self._row(where, raw, refuse)
            lines_of += [line] * (self.rows.num_kept - len(lines_of))
            if self.rows.num_kept >= num_rows:
                break
        self.rows.arrange(sorted(range(min(num_rows, len(lines_of))), key=lines_of.__getitem__))

    def _place(self, place: Place, number: int) -> None:
        progress = _Progress(self.options.say, place.shown)

        def gather(found: Format, placed: tuple[str, Row]) -> None:
            read = found.reader(self.account.use) or found.reader(DEMONSTRATIONS)
            assert isinstance(read, Together)
            self.together.setdefault(read, []).append(placed)
            self.gathered_from[placed[0]] = number

        for where, raw in _raw(place, self.account.use, progress):
            self._row(where, raw, gather)
            progress.after(self.account.num_rows)

    def _row(self, where: str, raw: Any, gather: Callable[[Format, tuple[str, Row]], None]) -> None:
        self.account.num_rows += 1
        try:
            num_given = 0
            for _, result in self.reader.results(where, raw, gather):
                self._keep(raw, result)
                num_given += 1
            self.account.num_read += num_given > 0
            if not num_given and where not in self.gathered_from:
                self.account.leave_out(where, f"without {self.account.use}")
        except LeftOut as problem:
            self.account.leave_out(where, f"{problem}")
        except (BadRow, RecursionError) as problem:
            self._bad(where, problem)

    def _bad(self, where: str, problem: Exception) -> None:
        reason = "nested too deep" if isinstance(problem, RecursionError) else " ".join(f"{problem}".split())
        if not self.options.skip_bad_rows:
            is_first = not self.rows.num_kept and not self.together
            kind = NoSuchData if isinstance(problem, NotHeld) and is_first else InputError
            raise kind(f"{where}: {reason}") from None
        self.account.leave_out(where, BAD, f"{where}: {reason}")

    def _keep(self, raw: Any, result: Any) -> None:
        if isinstance(result, Ranking) and len(set(result.ranks)) == 1 < len(result.ranks):
            self.account.num_ties += 1
        self.rows.append(PromptRow(prompt=result, columns=raw) if self.keep_columns else result)

    def _finish_together(self) -> dict[int, list[int]]:
        """What the rows of all places say together: which results, by the number of their source."""
        results_of: dict[int, list[int]] = {}
        for read, rows in self.together.items():
            by_place = {where: row for where, row in rows} if self.keep_columns else {}
            seen = set[str]()  # places whose rows gave something, or are counted
            for found_in, result in read.read(rows):
                try:
                    if isinstance(result, BadRow | LeftOut):
                        raise result
                    given = self.reader.final(None, result)
                    results_of.setdefault(self.gathered_from[found_in[0]], []).append(self.rows.num_kept)
                    self._keep(dict(by_place.get(found_in[0], {})), given)
                    self.account.num_read += len({*found_in} - seen)
                except LeftOut as problem:
                    for where in [place for place in found_in if place not in seen] or found_in[:1]:
                        self.account.leave_out(where, f"{problem}")
                except BadRow as problem:
                    self._bad(found_in[0], problem)
                seen.update(found_in)
            for where, _ in rows:
                if where not in seen:
                    self.account.leave_out(where, f"without {self.account.use}")
        return results_of


def _raw(place: Place, use: str, progress: _Progress) -> Iterator[tuple[str, Any]]:
    if place.table is not None:
        yield from table_rows(place)
    for path in place.files:
        yield from rows_of(path, "text" if use == TEXTS else "prompt", progress.watch, place.split)


def _weighted(results: Sequence[int], weight: float, seed: int) -> list[int]:
    """The results that many times over: whole copies in order, of the rest a random part in order."""
    copies, rest = divmod(weight, 1.0)
    part = sorted(random.Random(seed).sample(results, round(rest * len(results))))
    return [*results] * int(copies) + part


def _at_random(order: list[int], num_rows: int, seed: int) -> list[int]:
    """num_rows of the places at random, in the order they had."""
    picked = random_order(len(order), seed)
    return [
        order[place] for place in sorted(place for place, _ in zip(picked, range(num_rows), strict=False))
    ]

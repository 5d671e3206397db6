"""One row to what it gives for a use, by the table of formats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rlhf.data.account import Account
from rlhf.data.formats.checks import checked
from rlhf.data.formats.columns import Columns
from rlhf.data.formats.pairs import PAIRS
from rlhf.data.formats.shown import demonstration_text
from rlhf.data.formats.table import (
    DEMONSTRATIONS,
    RANKINGS,
    TEXTS,
    TO_RATE,
    Format,
    Together,
    fitting,
    holds,
)
from rlhf.data.rows import BadRow, Demonstration, LeftOut, NotHeld, Row

WHO_RATED = {
    "labeler",
    "rating",
    "scale",
}  # what only the reader of answers to rate uses, whatever the format
NOTHING: tuple[Any, ...] = ("", [])
SHAPELESS = (AttributeError, TypeError, KeyError, IndexError, ValueError)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a source is to be read.

    columns: what `--map` says, such as "prompt=question,chosen=good" or "ignore=label". answers, left: columns of a
    labeling tool's export. check: a further test of each result, raises BadRow. say: takes progress and the account.
    """

    skip_bad_rows: bool = False
    columns: str = ""
    answers: tuple[str, ...] = ()
    left: str | None = None
    check: Callable[[Any], None] | None = None
    say: Callable[[str], None] | None = None


def read_options(settings: Any, say: Callable[[str], None] | None = None) -> ReadOptions:
    """What settings or parsed options say of reading, as the readers take it.

    settings: with the fields map, answers, left (column names, several with commas between) and skip_bad_rows. say: takes progress, and one line of what was read and left out.
    """
    return ReadOptions(
        skip_bad_rows=settings.skip_bad_rows,
        columns=settings.map or "",
        answers=tuple(name.strip().lower() for name in (settings.answers or "").split(",") if name.strip()),
        left=settings.left.lower() if settings.left else None,
        say=say,
    )


class Parser:
    """Rows to results by the table of formats; what was met is counted in the account."""

    def __init__(self, account: Account, options: ReadOptions) -> None:
        self.account, self.use = account, account.use
        self.columns = Columns(options.columns)
        self.options = options
        self.known: dict[tuple[str, ...], list[Format]] = {}
        self.seen: set[tuple[str, tuple[str, ...]]] = set()

    def row(self, raw: Any) -> Row:
        """The row with its columns' names as the table has them. Raises BadRow, LeftOut."""
        if isinstance(raw, BadRow | LeftOut):
            raise raw
        if not isinstance(raw, dict):
            raise BadRow("a row must be a JSON object")
        row = self.columns.of(raw)
        if self.options.columns:
            self.account.ignored |= self.columns.unused(raw)
        row.answers, row.left = self.options.answers, self.options.left
        row.ignored = frozenset(self.columns.ignored)
        return row

    def format(self, row: Row) -> tuple[Format, Any]:
        """The row's format, and who reads it for the use. Raises LeftOut where a blank would be left out that is null here."""
        names = tuple(row)
        if names not in self.known:
            self.known[names] = self._candidates(row)
        for one in self.known[names]:
            if one.suits(row):
                self._note(one, names)
                return one, one.reader(self.use) or one.reader(DEMONSTRATIONS)
        for nothing in NOTHING if row.empty else ():
            self._leave_out(row.changed({**row, **dict.fromkeys(row.empty, nothing)}))
        raise self._unknown(row)

    def _leave_out(self, row: Row) -> None:
        """Raises LeftOut where a format's reader does for the row, and nothing else."""
        for one in self._candidates(row):
            read = one.reader(self.use)
            if read is not None and not isinstance(read, Together) and one.suits(row):
                try:
                    list(read(row))
                except LeftOut:
                    self.account.read_as[one.name] += 1
                    raise
                except (BadRow, *SHAPELESS):
                    continue

    def _candidates(self, row: Row) -> list[Format]:
        found = fitting(row, self.use)
        return found + fitting(row, DEMONSTRATIONS) if self.use == TEXTS else found

    def _note(self, found: Format, names: tuple[str, ...]) -> None:
        if (found.name, names) not in self.seen:
            self.seen.add((found.name, names))
            used = set(found.used(names)) | (WHO_RATED & {*names} if self.use == TO_RATE else set())
            self.account.used |= used
            self.account.ignored = (self.account.ignored | set(names)) - self.account.used

    def _unknown(self, row: Row) -> BadRow:
        """Why no format fits, in words that say what would."""
        there, held = f"columns found: {', '.join(row) or 'none'}", holds(row)
        for _, better, worse in PAIRS if self.use == RANKINGS else ():
            if (better in row) != (worse in row):
                kind = NotHeld if DEMONSTRATIONS in dict(held) else BadRow
                return kind(f'"{worse if better in row else better}" is missing ({there}); see docs/data.md')
        other = ", ".join(f"{use} ({name})" for use, name in held)
        if self.use == DEMONSTRATIONS and "chosen" in row:
            other += "; of chosen answers demonstrations are made with --map prompt=prompt,completion=chosen"
        return NotHeld(
            f"no {self.use} in it ({there}); {f'it holds {other}' if other else 'name them with --map'}; see docs/data.md"
        )

    def results(
        self, where: str, raw: Any, gather: Callable[[Format, tuple[str, Row]], None]
    ) -> Iterator[tuple[Row, Any]]:
        """(row, result) of one row; a row that only says something with others goes to `gather`."""
        row = self.row(raw)
        found, read = self.format(row)
        self.account.read_as[found.name] += 1
        if isinstance(read, Together):
            gather(found, (where, row))
            return
        try:
            for result in read(row):
                yield row, self.final(row, result)
        except SHAPELESS as problem:
            if isinstance(problem, UnicodeError):
                raise BadRow("the text holds half a surrogate pair") from None
            raise BadRow("the row has an unknown shape; see docs/data.md") from None

    def final(self, row: Row | None, result: Any) -> Any:
        """The result, checked, in the form of the use."""
        checked(result, row, least=1 if self.use == TO_RATE else 2)
        if self.use == TEXTS and isinstance(result, Demonstration):
            result = demonstration_text(result)
        if self.options.check is not None:
            self.options.check(result)
        return result

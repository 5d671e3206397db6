"""Columns under the names of the table of formats: in lower case, or as `--map` says."""

from typing import Any

from rlhf.data.formats.context import ASKED, CONTEXT, CONVERSATIONS
from rlhf.data.rows import MAY_BE_TURNS, BadRow, Row, unpacked
from rlhf.errors import InputError

IGNORE = "ignore"
FIELDS = (
    *ASKED, *CONTEXT, *CONVERSATIONS, "completion", "chosen", "rejected", "completions", "ranks", "scores", "labeler",
    "label", "rating", "margin", "text", "winner", "response_a", "response_b", "score_a", "score_b", "score_chosen",
    "score_rejected", IGNORE,
)  # fmt: skip


class Columns:
    """What `--map` says: `prompt=question,chosen=good` (a dot goes into an object), `ignore=label` to leave one out.

    Raises InputError for a mapping that is none.
    """

    def __init__(self, mapping: str = "") -> None:
        self.named: dict[str, str] = {}
        self.ignored: set[str] = set()
        for part in (part.strip() for part in mapping.split(",") if part.strip()):
            field, equals, column = (each.strip() for each in part.partition("="))
            if not equals or not column:
                raise InputError(f"--map {part}: write it as FIELD=COLUMN, such as prompt=question")
            if field == IGNORE:
                self.ignored.add(column.lower())  # errors and accounts say names in lower case
            elif field not in FIELDS:
                raise InputError(f"--map {part}: no field {field}; known are {', '.join(FIELDS)}")
            elif field in self.named:
                raise InputError(f"--map {part}: {field} is {self.named[field]} already; name one column")
            else:
                self.named[field] = column

    def of(self, raw: dict[str, Any]) -> Row:
        """The row's columns that hold something; with a mapping only those that it names."""
        if self.named:
            given = {field: _value(raw, column) for field, column in self.named.items()}
            row = Row()
            row.empty = tuple(field for field, value in given.items() if value is None)
            return row.inner(given)
        row = Row()
        for name, value in raw.items():
            if value is None:
                row.empty += (f"{name}".lower(),)
            elif not isinstance(name, str):  # of rows in memory
                raise BadRow(f"a column is called {name!r:.40}; names of columns are texts")
            elif (lower := name.lower()) not in self.ignored:
                if lower in row:
                    raise BadRow(f'two columns are called "{lower}"; name one of them with --map')
                is_packed = type(value) is str and value[:1] in MAY_BE_TURNS
                row[lower] = unpacked(lower, value) if is_packed else value
        return row

    def unused(self, raw: dict[str, Any]) -> set[str]:
        """The row's columns that the mapping leaves out; without one none."""
        if not self.named:
            return {name for name in raw if f"{name}".lower() in self.ignored}
        taken = self.named.values()
        return {name for name in raw if not any(one == name or one.startswith(f"{name}.") for one in taken)}


def _value(raw: dict[str, Any], column: str) -> Any:
    if column in raw:
        return raw[column]
    value: Any = raw
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            raise BadRow(f'"{column}", which --map names, is missing (columns found: {", ".join(raw)})')
        value = value[name]
    return value

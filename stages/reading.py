"""Reading people's files as a stage's settings say."""

from collections.abc import Callable, Sequence
from typing import Any

from rlhf.data import ReadOptions, Rows


def read_options(settings: Any, say: Callable[[str], None] | None = None) -> ReadOptions:
    """What settings or parsed options say of reading, as the readers take it.

    settings: with the fields of `ReadingSettings`. say: takes progress, and one line of what was read and left out.
    """
    return ReadOptions(
        skip_bad_rows=settings.skip_bad_rows,
        columns=settings.map or "",
        answers=tuple(name.strip().lower() for name in (settings.answers or "").split(",") if name.strip()),
        left=settings.left.lower() if settings.left else None,
        say=say,
    )


def prefixed(name: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` with a stage's name in front."""
    return lambda line: say(f"{name}: {line}")


def accounts_of(*sources: Sequence[Any]) -> list[dict[str, Any]]:
    """What was read and what was left out, for a manifest; rows that came of no file have none."""
    return [rows.account.manifest() for rows in sources if isinstance(rows, Rows)]

"""What stages say, and keep, of the files they read."""

from collections.abc import Callable, Sequence
from typing import Any

from rlhf.data import Rows


def prefixed(name: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` with a stage's name in front."""
    return lambda line: say(f"{name}: {line}")


def accounts_of(*sources: Sequence[Any]) -> list[dict[str, Any]]:
    """What was read and what was left out, for a manifest; rows that came of no file have none."""
    return [rows.account.manifest() for rows in sources if isinstance(rows, Rows)]

"""What became of a source's rows: what they were read as, what was used, and what was left out and why."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Account:
    """Counts over the rows of one source.

    num_rows: rows met; num_read: those that gave something; num_given: rankings, demonstrations, prompts or texts in the
    result. left_out: how many rows by reason, worded to follow "left out 3". first: the first place of each reason.
    not_read: files of a folder that are of other splits or hold no data.
    """

    source: str
    use: str
    num_rows: int = 0
    num_read: int = 0
    num_given: int = 0
    read_as: Counter[str] = field(default_factory=Counter)
    used: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    num_ties: int = 0
    num_duplicates: int = 0
    revisions: dict[str, str] = field(default_factory=dict)
    not_read: list[str] = field(default_factory=list)
    sha256: str = ""

    def leave_out(self, where: str, reason: str, place: str = "") -> None:
        """Count one row that is not used; `place` says more of the first of its kind."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, place or where)

    def line(self) -> str:
        """The account in one line: "read 3,994 rows as HH; left out 2 without an answer, 12 that part early"."""
        kinds = " and ".join(self.read_as) or "nothing known"
        parts = [f"read {self.num_rows:,} row{'' if self.num_rows == 1 else 's'} as {kinds}"]
        if self.num_given != self.num_read:
            parts.append(f"{self.num_given:,} {self.use} in them")
        if self.left_out:
            parts.append(
                "left out "
                + ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
            )
        if self.num_duplicates:
            parts.append(f"{self.num_duplicates:,} stand there more than once")
        if self.ignored:
            parts.append(f"columns not used: {_first_names(sorted(self.ignored))}")
        if self.not_read:
            parts.append(f"files not read: {_first_names(self.not_read)}")
        return f"{self.source}: " + "; ".join(parts)

    def manifest(self) -> dict[str, Any]:
        """The account as JSON for an entry's manifest."""
        return {
            "source": self.source,
            "read_as": dict(self.read_as),
            "rows": self.num_rows,
            self.use: self.num_given,
            "columns_used": sorted(self.used),
            "columns_ignored": sorted(self.ignored),
            "left_out": dict(self.left_out),
            "first_left_out": dict(self.first),
            "ties": self.num_ties,
            "duplicates": self.num_duplicates,
            "revisions": self.revisions,
            "files_not_read": self.not_read,
            "sha256": self.sha256,
        }


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")

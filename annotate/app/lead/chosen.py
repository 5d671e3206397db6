"""Which answers a lead's form asks for: a batch, days, people only; as it was filled in, before anybody checked it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from annotate.answers.choice import DAY_S, Choice, midnight


@dataclass(frozen=True)
class Chosen:
    """A batch or none, days as texts or empty."""

    batch: str
    since: str
    until: str
    people_only: bool

    def problem(self, names: Collection[str], lead: Mapping[str, str]) -> str:
        """What is wrong with it, in the reader's language; empty where nothing is. names: those of all batches."""
        if self.batch and self.batch not in names:
            return lead["no_batch"].format(name=self.batch)
        return self.bad_day(lead)

    def bad_day(self, lead: Mapping[str, str]) -> str:
        """What is wrong with its days; empty where nothing is."""
        for day in filter(None, (self.since, self.until)):
            try:
                date.fromisoformat(day)
            except ValueError:
                return lead["bad_day"].format(day=day)
        return ""

    def choice(
        self, labelers: Sequence[str] = (), min_agreement: float | None = None, adjudicated: bool = False
    ) -> Choice:
        """The answers it means; its days are days (`bad_day`)."""
        first, last = (date.fromisoformat(day) if day else None for day in (self.since, self.until))
        return Choice(
            batch=self.batch or None,
            since=midnight(first),
            until=midnight(last, DAY_S),
            labelers=tuple(labelers),
            include_simulated=not self.people_only,
            min_agreement=min_agreement,
            adjudicated=adjudicated,
        )

    def query(self) -> dict[str, str]:
        """What the address of a file or picture of the same answers ends with."""
        given = {"batch": self.batch, "since": self.since, "until": self.until}
        given["people_only"] = "true" if self.people_only else ""
        return {name: value for name, value in given.items() if value}

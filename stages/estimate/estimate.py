"""What was found of one stage, in words."""

from dataclasses import dataclass

UNITS = ((3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Step:
    """One optimizer step as it was measured.

    before_s: what came before the first one. forward_share: what a pass without gradients takes of a step. peak_mib: the
    most memory that was held.
    """

    seconds: float
    before_s: float
    forward_share: float
    peak_mib: float


@dataclass(frozen=True)
class Estimate:
    """One stage: what it was estimated for, and how long and large it is. peak_mib None: it did not fit.

    step: what was measured, where it was an optimizer step.
    """

    stage: str
    work: str
    seconds: float = 0.0
    peak_mib: float | None = None
    step: Step | None = None

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.peak_mib is None:
            return self.work
        return f"about {format_duration(self.seconds)}, {self.peak_mib / 1024:.1f} GiB: {self.work}"


def format_duration(seconds: float) -> str:
    """Seconds in the unit people would use."""
    size, unit = next((size, unit) for size, unit in UNITS if seconds >= 1.5 * size or size == 1)
    return f"{seconds / size:.1f} {unit}"

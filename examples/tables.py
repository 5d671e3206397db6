"""Tables and intervals of the pages."""

from pathlib import Path
from statistics import mean, stdev

from rlhf.intervals import effective_interval, t_quantile


def table(header, rows):
    """A table in Markdown; the first column holds names, the others numbers."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def interval(values, digits=3):
    """Mean and half the width of its 95 % interval over seeds (Student's t); one value stands alone."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f} (one seed)"
    return f"{mean(values):.{digits}f} ± {half_width(values):.{digits}f}"


def shares(counts):
    """Shares by name of counts (right, asked)."""
    return {name: right / asked for name, (right, asked) in counts.items()}


def pooled(runs, key):
    """Counts (right, asked) by name, added up over the runs of several seeds."""
    return {name: [sum(made[key][name][at] for made in runs) for at in (0, 1)] for name in runs[0][key]}


def by_seed(runs, key):
    """The share of each seed's run over all names."""
    return ", ".join(f"{total_share(made[key]):.1%}" for made in runs)


def total_share(counts):
    """The share over all names."""
    return sum(right for right, _ in counts.values()) / sum(asked for _, asked in counts.values())


def share_rows(counts):
    """Rows of a table: name, right, asked, share and its interval."""
    rows = []
    for name, (right, asked) in counts.items():
        low, high = effective_interval(right / asked, asked)
        rows.append([name, right, asked, f"{right / asked:.1%}", f"{low:.1%} to {high:.1%}"])
    return rows


def half_width(values):
    """Half of the 95 % interval of the mean over seeds (Student's t); 0 for a single value."""
    return t_quantile(len(values) - 1) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def overlap(one, other):
    """Whether the intervals of two means meet; two single values never tell apart."""
    if len(one) == 1 or len(other) == 1:
        return True
    return abs(mean(one) - mean(other)) < half_width(one) + half_width(other)


def lines_of(example):
    """How many lines an example has."""
    return len((Path(__file__).parent / f"{example}.py").read_text().splitlines())

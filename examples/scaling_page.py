"""What the page of the scaling law makes of the runs."""

from statistics import mean

from examples.scaling_law import Law
from examples.tables import interval

NAMES = {
    "floor": "E",
    "size_factor": "A",
    "size_exponent": "α",
    "data_factor": "B",
    "data_exponent": "β",
}


def losses_of(runs):
    """Held-out losses."""
    return [run["loss"] for run in runs]


def by_settings(runs):
    """Runs that only their seeds tell apart, by size and tokens."""
    groups: dict[tuple[str, int], list] = {}
    for run in runs:
        groups.setdefault((run["size"], run["tokens"]), []).append(run)
    return groups


def scaling_lines(found):
    """Lines by size: tokens and mean losses over seeds, in the order of the runs, the largest run as a line of one point."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for (size, tokens), runs in by_settings([*found["runs"], *found["largest"]]).items():
        x, y = lines.setdefault(size, ([], []))
        x.append(tokens)
        y.append(mean(losses_of(runs)))
    return lines


def scaling_rows(found):
    """A row for each size and number of tokens, with what the law says of it."""
    law = Law(**found["law"])
    return [
        [size, f"{runs[0]['weights']:,}", f"{tokens:,}", interval(losses_of(runs)),
         f"{law.loss(runs[0]['weights'], tokens):.3f}"]
        for (size, tokens), runs in by_settings(found["runs"]).items()
    ]  # fmt: skip


def law_rows(found):
    """A row for each number of the law, with its interval."""
    return [
        [NAMES[key], number(value), " to ".join(map(number, found["intervals"][key]))]
        for key, value in found["law"].items()
    ]


def number(value):
    """Three digits; 0 for what the fit, which searches logarithms, can only come near to."""
    return f"{value:.3g}" if value > 1e-6 else "0"


def scaling_answer(found):
    """Two sentences: whether the prediction held, and what size its compute would best have gone to."""
    value, (low, high) = found["predicted"]
    reached = sum(losses_of(found["largest"])) / len(found["largest"])
    run = found["largest"][0]
    held = "inside" if low <= reached <= high else "outside"
    return (
        f"The law predicted {value:.3f} nats a token for the largest run and it reached {reached:.3f}, {held} the bootstrap "
        f"interval of {low:.3f} to {high:.3f}. By the law the same compute would best go to {found['best_size']:,.0f} weights "
        f"rather than {run['weights']:,}."
    )
